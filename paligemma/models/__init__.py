"""The architecture, one file for each box of the drawing: SigLIP, Gemma, PaliGemma, mask codec."""
