"""What other people's vision-language models say, in their own code: made once by the scripts here, see `making`."""
