"""What serving costs a step beside the model: engine, frames, and where the time of both falls."""
