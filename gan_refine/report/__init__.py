"""What a run tells about itself: distances of generator and teacher, pictures, the final summary."""

from gan_refine.report.evaluation import distance_of_generator, distance_of_teacher, grid_latents, render
from gan_refine.report.summary import Summary

__all__ = ["Summary", "distance_of_generator", "distance_of_teacher", "grid_latents", "render"]
