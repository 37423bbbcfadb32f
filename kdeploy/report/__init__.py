"""Compare measurements for people; needs neither torch nor the device."""
