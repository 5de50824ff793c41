"""One run: build, trainer, checkpoint, run folder, resume, launch, signals, report."""
