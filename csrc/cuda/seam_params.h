// The parameters of the kernels of the training engine. Without torch and CUDA, so that host and kernels can include
// it.
//
// A *position* is a word of a document of a batch, and its *flat index* the row of the buffers where its gates, cell
// and hidden state are. For GateRowSteps flat indices count document by document, without what follows a document's
// last word; for SeamSteps they are time * batch + document, where `batch` is the size of a whole batch; the last one
// may have fewer documents.
#pragma once

#include "common/quadrature_rules.h"
#include "common/score_state.h"
#include "gate_row_layout.h"
#include "params.h"

namespace seam::gpu {

constexpr int kMostClasses = 256;  // the most that the engine on a GPU takes

// ---- The plan of a launch: made ahead on the host, since all its documents are known --------------------------------

struct PlanStep {
  int32_t documents;  // of this batch
  int32_t first;      // its first document, among those of the plan
  int32_t words;      // distinct ones
  int32_t positions;  // that hold a word
  int32_t stale;      // rows of scores to be brought up to date before this step
  float total;        // what the sum of the documents' losses is divided by
  // Offsets in the plan's `numbers` of these lists, which follow one another:
  int32_t document_at;    // [documents] the document of each rank, longest first; then [documents] their lengths, and
                          // [documents] each one's first position, if flat indices count document by document
  int32_t word_at;        // [words] score row; [words] word id; then [words + 1] the first of its positions
  int32_t flat_index_at;  // [positions] word by word, those of a word in order
  int32_t
      word_number_at;  // [positions] the word of each flat index; [words] each word's number in the next step, or kNone
  int32_t stale_at;    // [stale] score row; its last step, or kUntouched; the number of its word, or kNone
  // If flat indices count by time: the positions of each word in pieces of at most kPieceOfWord, so that the work of a
  // frequent word can be divided.
  int32_t pieces;
  int32_t
      piece_at;  // [words + 1] first piece of each word; then [pieces + 1] first of its positions, counted word by word
  SEAM_INLINE int32_t lists() const {
    return stale_at - document_at;
  }  // how many numbers there are without the stale rows
};

constexpr int32_t kPieceOfWord = 64;  // positions
constexpr int32_t kStaleNumbers = 3;  // numbers per stale row
constexpr int32_t kNone = -1;
constexpr int32_t kUntouched = -1;  // last step of a row that never occurred: its state is that of all such rows

// ---- The lazy update of rows of the embedding -----------------------------------------------------------------------

struct RowsParams {
  int32_t width;            // E
  ScoreState<float> state;  // [rows + 1, width]
  AdamRule<float> rule;
  bool uses_quadrature;         // skipped steps are made up for in closed form; else replayed one by one
  int64_t first;                // steps taken when this epoch began
  const AdamStep<float>* step;  // [steps of the epoch]
  const double* beta2_power;    // [steps of the epoch + 1] beta2^(first + i)
  const QuadratureRule<float>* quadrature_rules;  // [kMaxSkippedSteps + 1]; only those that are needed are set
  float lr;
  double penalty_sq;  // the square of the penalty
};

struct FlushParams {
  RowsParams rows;
  int64_t now;  // steps taken: all rows are brought up to date with them
  int64_t stale;
  const int32_t* numbers;  // [stale, kStaleNumbers] as in a plan
  float untouched[3];      // score, exp_avg and exp_avg_sq of untouched rows
};

// ---- Weights, scores and Adam ---------------------------------------------------------------------------------------

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
  // For each document of a batch:
  float *positive, *d_outputs, *losses;  // (B, C) after ReLU; (B, 2); (B,)
};

// ---- Evaluation -----------------------------------------------------------------------------------------------------

struct KeepBitsParams {
  static constexpr int kTensors = 7, kCounts = kTensors + 2;
  struct Part {
    const float* score;
    int32_t count, first_word;  // first_word: offset of its bits
  };
  Part part[kTensors];  // the embedding is the first
  int32_t
      first_shared;  // index of the first score of the embedding's last row, for all words without a row of their own
  const float* head[2];
  int32_t head_numbers[2];
  uint32_t* bits;  // 32 scores per word
  float* head_copy;
  int32_t* counts;  // [warps of the launch, kCounts] positive scores of each tensor, of that row, and whether
                    // any score is not finite
};

// ---- Steps ----------------------------------------------------------------------------------------------------------

// The global scratch memory of GateRowSteps besides that in TrainParams. Zero at first, and again when sizes change;
// the padding of each row stays zero. P: the pitches of the layout.
struct GateRowScratch {
  float* x;  // 2 times (words, P_e): effective embeddings of the batch's words, of even and of odd steps
  float*
      w_ih;  // 2 times (4H, P_e), effective, of even and of odd steps. Gate rows in GateRowLayout's order, also below
  float* w_hh;                 // (padded units, kUnitStride, 4), effective: source unit, destination unit, gate
  float* projected;            // (words, 4H)
  float* d_gates;              // (positions, 4H)
  float* hidden;               // (positions, P_h): the hidden state before each position
  float *state_ih, *state_hh;  // (blocks, 4, numbers_ih or numbers_hh): weight, score, exp_avg, exp_avg_sq
};

struct Outcome {
  int32_t steps;  // steps that succeeded
  int32_t what;   // as in SeamFailure
  float loss;     // of the step that failed
};

struct TrainParams {
  int32_t E, H, T, batch;
  bool read_last_word, train_head;
  bool rows_by_four;     // rows of the embedding and of its scores begin at multiples of 16 bytes
  int32_t steps;         // of this launch
  int64_t now;           // steps taken before it
  const PlanStep* plan;  // [steps + 2]; the last two are empty
  const int32_t* numbers;
  const float* target_probability;  // (documents,)
  const float* untouched;           // [steps + 1, 3] the state of untouched rows before each step
  RowsParams rows;
  const float* embedding;    // (V, E)
  const int32_t* id_of_row;  // [rows] the word id of each score row
  Scored weight_ih, weight_hh, bias_ih, bias_hh, linear, linear_bias;
  HeadParams head;
  ForwardParams<float> forward;  // the recurrence, on the scratch below; `sequences` is set in each step
  BackwardParams<float> backward;
  const AdamStep<float>* head_step;  // [steps of the epoch], of the head in steps with scores
  // Scratch, which stays in the L2 cache. Each array begins at a multiple of 16 bytes.
  float* x;                  // (words, E): effective embeddings of the batch's words
  float* w_ih;               // 2 times (4H, E), effective, of even and of odd steps
  float* w_hh;               // (4H, H)
  float *gates, *cells;      // (T, batch, 4H), (T, batch, H)
  float* output;             // (1 + T, batch, H): the first, zero, is the initial state
  float *h_n, *c_n, *d_h_n;  // (batch, H); c_n is not used
  float* d_words;            // (words, 4H)
  float* d_logits;           // (batch, C)
  GateRowLayout layout;      // of GateRowSteps, and its scratch
  GateRowScratch rows_of_gates;
  int32_t *bad, *reasons;  // flags of what is not finite: [2, blocks, warps], of even and odd steps; [blocks, threads]
  float* losses;           // [steps]
  Outcome* outcome;
  int64_t* profile;  // [blocks, kMarks] clocks of each phase; null: not measured
};

constexpr int kMarks = 24;

// The global scratch memory of steps of the whole GPU (wide_steps.cuh) besides that in TrainParams.
struct WideScratch {
  float* projected;  // (words, 4H)
  float* of_pieces;  // (pieces, 4H): gradients of the gates, summed over each piece of a word
  float *of_w_hh,
      *of_w_ih;    // (parts, 4H, H + 1), (parts, 4H, E): gradients; the last column of the first is that of the biases
  int32_t* flags;  // [kWideFlags] bits of what is not finite, by kernel, block and warp
};

// The parameters of each launch of such a step.
struct WideParams {
  TrainParams train;
  PlanStep plan, next;  // of this step and the next
  int32_t step;         // its index in the plan
  WideScratch scratch;
};

constexpr int kWideBlocks = 256;  // the most blocks of a kernel that writes flags
constexpr int kWideFlags = 3 * kWideBlocks * 8;
constexpr int32_t kWidePositions = 512, kWideWords = 256;  // terms in a part of the gradient of W_hh, of W_ih

struct TrainHeadParams {
  HeadParams head;
  int32_t documents, batch;         // in all; in a batch
  const float* features;            // (documents, C)
  const float* target_probability;  // (documents,)
  const AdamStep<float>* step;      // [steps]
  int32_t* bad;                     // [8]
  float* losses;                    // [steps]
  Outcome* outcome;
};

}  // namespace seam::gpu
