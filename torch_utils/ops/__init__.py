"""The custom operations of StyleGAN2, with the signatures that embedded sources call."""
