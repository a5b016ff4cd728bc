"""What hybrid conversion and STDB do on real data: the runs behind experiments/README.md."""
