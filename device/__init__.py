"""Where a bundle runs: this machine, or a device over ADB."""
