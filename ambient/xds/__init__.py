"""Delta ADS, both ends, and the translation between protobuf and `ambient.api`."""
