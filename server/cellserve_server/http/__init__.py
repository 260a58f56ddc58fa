"""Pages over HTTP beside the gRPC port: the metrics page."""
