"""Where a benchmark runs: this machine, a board over SSH, an Android phone over adb."""
