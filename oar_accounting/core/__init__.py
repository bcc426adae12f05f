"""What all rooms share: columns of numbers, time, and what people read and type."""
