"""Networks as plain modules: StyleGAN2, the U-Nets of EDM and their preconditioning."""
