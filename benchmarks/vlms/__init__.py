"""Vision-language models at their real sizes beside other runtimes; each module says how one is made and timed."""
