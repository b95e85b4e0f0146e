"""What people see: the pages of the specification, and the REST API behind them."""
