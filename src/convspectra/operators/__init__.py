"""Layers as they run, whatever their boundary: apply and adjoint, Lanczos, the dense reference."""
