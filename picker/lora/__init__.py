"""Keeps the LoRA adapters of one model server as a file says: the side-car of the Inference Extension."""
