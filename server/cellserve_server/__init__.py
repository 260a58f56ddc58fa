"""The server of CellServe: sessions of recurrent models over gRPC."""
