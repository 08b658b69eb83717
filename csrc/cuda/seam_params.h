// What the kernels of the training engine are given. No torch and no CUDA, so that both sides see it.
//
// A *place* is a position of a batch: the row of the buffers in which that position has its gates, cell and hidden state.
// For GateRowSteps they are numbered document by document, without what follows a document's last word; for SeamSteps by
// time * batch + document, where `batch` is the size of a whole batch; the last one may have fewer documents.
#pragma once

#include "common/quadrature_rules.h"
#include "common/score_state.h"
#include "gate_row_layout.h"
#include "params.h"

namespace seam::gpu {

constexpr int kMostClasses = 256;  // that the one-launch engine takes

// ---- An epoch's plan: made ahead on the host, since all its documents are known ----------------------------------------

struct PlanStep {
  int32_t documents;    // of this batch
  int32_t first;        // its first document, among those of the plan
  int32_t words;        // distinct ones
  int32_t positions;      // that hold a word
  int32_t stale;          // rows of scores to be brought up to date before this step
  float total;          // what the sum of the documents' losses is divided by
  // Where in the plan's numbers lie, one after the other:
  int32_t document_at;  // [documents] of each rank, the longest first; then [documents] their lengths, and
                        // [documents] each one's first place where places are numbered document by document
  int32_t word_at;      // [words] row of scores; [words] row of the embedding; then [words + 1] first of its places
  int32_t flat_index_at;     // [places] word by word, each word's in order
  int32_t word_number_at;  // [places] the word of each place; [words] each one's number in the next step, or kNone
  int32_t stale_at;       // [stale] row of scores; the step until which it is up to date, or kUntouched; number of its word or kNone
  // Where places are numbered by time: a word's places in pieces of kPieceOfWord at most, so that a frequent word's work is
  // divided.
  int32_t pieces;
  int32_t piece_at;     // [words + 1] first piece of each word; then [pieces + 1] first of its places, counted word by word
  SEAM_INLINE int32_t lists() const { return stale_at - document_at; }  // how many numbers there are but for `stale`
};

constexpr int32_t kPieceOfWord = 64;  // places
constexpr int32_t kStaleNumbers = 3;  // of a row that is stale
constexpr int32_t kNone = -1;

constexpr int32_t kUntouched = -1;  // of a row that never occurred: it follows the others of its kind

// ---- Rows of the embedding that make up for missed steps ---------------------------------------------------------------

struct RowsParams {
  int32_t width;                  // E
  ScoreState<float> state;        // [rows + 1, width]
  AdamRule<float> rule;
  bool uses_quadrature;                   // over gaps, by a rule for all steps at once; else step by step
  int64_t first;                  // number of steps taken when this epoch began
  const AdamStep<float>* step;    // [steps of the epoch]
  const double* beta2_power;      // [steps of the epoch + 1] beta2^(first + i)
  const QuadratureRule<float>* quadrature_rules;    // [kMaxSkippedSteps + 1]; only those that are needed are set
  float lr;
  double penalty_sq;                  // the square of the penalty
};

struct FlushParams {
  RowsParams rows;
  int64_t now;                    // steps taken: until which all rows are brought up to date
  int64_t stale;
  const int32_t* numbers;         // [stale, kStaleNumbers] as in a plan
  float untouched[3];                 // score, exp_avg and exp_avg_sq of rows that never occurred
};

// ---- Weights, scores and Adam ------------------------------------------------------------------------------------------

struct Scored {  // a frozen weight and its scores, contiguous
  const float* weight;
  ScoreState<float> state;
  AdamRule<float> rule;
};

struct HeadParams {
  int32_t classes;
  float target_weight;
  ScoreState<float> weight, bias;  // (2, C), (2,): the numbers themselves and Adam's state
  AdamRule<float> rule;
  // Of a batch, by document:
  float *positive, *d_outputs, *losses;  // (B, C) after ReLU; (B, 2); (B,)
};

// ---- Looking -----------------------------------------------------------------------------------------------------------

struct KeepBitsParams {
  static constexpr int kTensors = 7, kCounts = kTensors + 2;
  struct Part {
    const float* score;
    int32_t count, first_word;  // where its bits begin
  };
  Part part[kTensors];          // the embedding's first
  int32_t first_shared;         // of the embedding's, the first of the row that stands for all words without their own
  const float* head[2];
  int32_t head_numbers[2];
  uint32_t* bits;               // 32 scores a word
  float* head_copy;
  int32_t* counts;              // [warps of the launch, kCounts] positive scores by tensor, of that row, whether one is not
                                // finite
};

// ---- Steps -------------------------------------------------------------------------------------------------------------

// What GateRowSteps has in global memory beside what its name says of TrainParams. Zero at first, and again where sizes have
// changed; what is behind the last column of a row stays so. With P for a layout's pitches:
struct GateRowScratch {
  float *x;          // 2 times (words, P_e) what the batch's words keep, of even and of odd steps
  float *w_ih;       // 2 times (4H, P_e), effective, of even and of odd steps. Gate rows in GateRowLayout's order, as below
  float *w_hh;       // (padded units, kUnitStride, 4), effective: from which hidden unit, to which, gate
  float *projected;  // (words, 4H)
  float *d_gates;    // (places, 4H)
  float *hidden;     // (places, P_h): the state that the place began with
  float *state_ih, *state_hh;  // (blocks, 4, numbers_ih or numbers_hh): weight, score, exp_avg, exp_avg_sq
};

struct Outcome {
  int32_t steps;  // that went well
  int32_t what;   // as in SeamFailure
  float loss;     // of the step that failed
};

struct TrainParams {
  int32_t E, H, T, batch;
  bool read_last_word, train_head;
  bool rows_by_four;               // whether rows of the embedding and of its scores begin at multiples of 16 bytes
  int32_t steps;                   // of this launch
  int64_t now;                     // steps taken before it
  const PlanStep* plan;            // [steps + 2]; the last two are empty
  const int32_t* numbers;
  const float* target_probs;             // (documents, 2): target and rest
  const float* untouched;              // [steps + 1, 3] the state of rows that never occurred, before each step
  RowsParams rows;
  const float* embedding;          // (V, E)
  const int32_t* id_of_row;        // [rows] the row of `embedding` that a row of scores belongs to
  Scored weight_ih, weight_hh, bias_ih, bias_hh, linear, linear_bias;
  HeadParams head;
  ForwardParams<float> forward;    // the recurrence over the scratch below; each step has sequences of its own
  BackwardParams<float> backward;
  const AdamStep<float>* head_step;  // [steps of the epoch], of the head together with scores
  // Scratch, which stays in the L2 cache. Each of these begins at a multiple of 16 bytes.
  float *x;                        // (words, E) what the batch's words keep
  float *w_ih;                     // 2 times (4H, E), effective: of even and of odd steps
  float *w_hh;                     // (4H, H)
  float *gates, *cells;            // (T, batch, 4H), (T, batch, H)
  float *output;                   // (1 + T, batch, H): the first, zero, is what sequences begin with
  float *h_n, *c_n, *d_h_n;        // (batch, H); nobody reads c_n
  float *d_words;                  // (words, 4H)
  float *d_logits;                 // (batch, C)
  GateRowLayout layout;            // for GateRowSteps, and its scratch
  GateRowScratch rows_of_gates;
  int32_t *bad, *reasons;          // [2, blocks, warps], of even and odd steps; [blocks, threads]
  float* losses;                   // [steps]
  Outcome* outcome;
  int64_t* profile;                // [blocks, kMarks] clocks a phase, if they are asked for
};

constexpr int kMarks = 24;

// What steps of the whole GPU, see wide_steps.cuh, have in global memory beside what TrainParams says.
struct WideScratch {
  float* projected;          // (words, 4H)
  float* of_pieces;          // (pieces, 4H) gradients of the gates, summed over each piece of a word
  float *of_w_hh, *of_w_ih;  // (parts, 4H, H + 1), (parts, 4H, E): gradients, the last column that of the biases
  int32_t* flags;            // [kWideFlags] what is not finite, as bits, by kernel, block and warp
};

// One of them, a launch for each phase.
struct WideParams {
  TrainParams train;
  PlanStep plan, next;       // of the step and the one after it
  int32_t step;              // its number among those of the plan
  WideScratch scratch;
};

constexpr int kWideBlocks = 256;  // of a kernel that tells what is not finite, at most
constexpr int kWideFlags = 3 * kWideBlocks * 8;
constexpr int32_t kWidePositions = 512, kWideWords = 256;  // terms of a part of W_hh's gradient, and of W_ih's

struct TrainHeadParams {
  HeadParams head;
  int32_t documents, batch;        // in all; of a batch
  const float* features;           // (documents, C)
  const float* target_probs;             // (documents, 2)
  const AdamStep<float>* step;     // [steps]
  int32_t* bad;                    // [8]
  float* losses;                   // [steps]
  Outcome* outcome;
};

}  // namespace seam::gpu
