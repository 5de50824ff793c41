"""The method: alternate steps of the objective's helpers and of the generator. Prints nothing, writes nothing."""

from gan_refine.refine.diagnosis import diagnose
from gan_refine.refine.fitting import fit_batch
from gan_refine.refine.gradients import PREPARE_STREAM, pool_batch
from gan_refine.refine.health import SIGMA_BANDS, Health
from gan_refine.refine.learning import learning_groups
from gan_refine.refine.loop import Progress, advance, lr_factor, refine
from gan_refine.refine.modules import load_tensors
from gan_refine.refine.state import RefineState, StateRecord

__all__ = ["PREPARE_STREAM", "SIGMA_BANDS", "Health", "Progress", "RefineState", "StateRecord"]
__all__ += ["advance", "diagnose", "fit_batch", "learning_groups", "load_tensors", "lr_factor", "pool_batch", "refine"]
