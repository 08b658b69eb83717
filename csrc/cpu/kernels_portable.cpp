// The CPU kernels for any machine: 128-bit vectors, which the compiler turns into SSE2, NEON or plain code.
#include <cstddef>

#define SEAM_SIMD 128
#include "masked_lstm_kernels.h"
#include "score_adam_kernel.h"
#include "seam_kernels.h"

#include "kernel_table.h"  // after the kernels

const seam::Isa seam::kPortable = {"portable", [] { return true; }, kTable32, kTable64};
