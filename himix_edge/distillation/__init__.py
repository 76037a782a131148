"""HiMix from a vision-language model: its injection is what the model itself makes of its image tokens."""
