"""What the HTTP door costs beside the gRPC door: the same answers, chunk by chunk, over both."""
