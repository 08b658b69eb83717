"""What the tests share, one module for each thing that it makes.

toy_data       corpora and documents
toy_weights    weights, heads and trained bases
trainer_kinds  trainers of every kind by one call, and their state
agreement      how near a trainer must stay to the reference step
by_hand        SEAM worked out beside the package
strategies     what hypothesis draws
lstm_cases     cases of the masked LSTM, the truth about them, the tolerance
gpu_stand_in   the CUDA code as a module that runs on the CPU

Fixtures are in conftest.py.
"""
