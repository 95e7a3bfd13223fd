"""What is wrong with an object, before anybody stores it; one module a family of kinds."""
