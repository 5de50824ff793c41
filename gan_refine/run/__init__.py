"""One run: build, trainer, checkpoint, run folder, resume, launch, signals, report; and what the other commands do."""
