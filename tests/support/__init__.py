"""What the tests share, one module for each thing that it makes.

toy_data                 corpora and documents
own_corpus               a corpus in files, as somebody's own
r8_sources               documents in the form of the published R8
toy_weights              weights, heads and trained bases
trainer_kinds            trainers of every kind by one call, and their state
agreement                how near a trainer must stay to the reference step
cpu_trainers             trainers of the CPU over small bases
by_hand                  SEAM worked out beside the package
strategies               what hypothesis draws
lstm_cases               cases of the masked LSTM, the truth about them, the tolerance
gpu_stand_in             the CUDA code as a module that runs on the CPU
gpu_calls                the op on a real GPU
fake_module              a stand-in for the compiled part
fake_gpus                stand-ins for torch.cuda, its streams and its graphs
skipped_steps            rows whose words did not occur for a while, and the same steps in NumPy
bare_trainers            the compiled trainers by themselves, and all that they must refuse
compiled_trainer_checks  what compiled trainers are held to on any device
cuda_trainer_checks      what a trainer of one launch is held to
cohort_cases             modules that are trained in step
recipes                  short trainings of a base
scripts                  the scripts of the checkout as modules, its measuring suites as processes
stop_events              what ends a training, and counts how often it is polled

Fixtures are in conftest.py.
"""
