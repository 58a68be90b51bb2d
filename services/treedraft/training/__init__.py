"""Making drafters: `treedraft distill`, from a target model to a folder that `--draft` takes."""
