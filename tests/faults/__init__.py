"""What goes wrong on purpose: kills, damage, full disks, bad input, numbers that are none."""
