"""What tests stand on: a simulated machine. Shipped, so that users can test with it."""
