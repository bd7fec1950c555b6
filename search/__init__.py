"""What to try next, who runs it, what is kept, what is handed over."""

import os

# Must be set before torch is imported: OpenMP threads that wait by spinning make training twenty
# times slower (2 cores, one other busy process) as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
