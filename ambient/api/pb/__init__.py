"""Generated protobuf code and the .proto files it comes from (`make proto`)."""
