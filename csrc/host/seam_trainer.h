// The training engine: whole epochs of one module in native code. The trainers of seam_fast drive it; its specification
// is the training step in plain PyTorch (the Stepper of the reference).
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "binary_counts.h"
#include "checks.h"

namespace seam {

class DrawnDocuments;

// Tensors come in the order of the public checkpoint: embedding (V, E), weight_ih (4H, E), weight_hh (4H, H), bias_ih,
// bias_hh (4H), linear weight (C, H), linear bias (C). All are contiguous, on one device and of one dtype: float32, or
// on the CPU float64.
struct SeamTrainerTensors {
  std::vector<Tensor> weights;  // frozen; shared by all modules of a base
  Tensor fed_ids;               // int64 (R,): the ids of the words that have a row of scores of their own
  // Updated in place. Those of the embedding are (R + 1, E): the last row stands for all other words.
  std::vector<Tensor> scores, exp_avg, exp_avg_sq;
  std::vector<Tensor> head;  // weight (2, C), bias (2,); updated in place
  // exp_avg and exp_avg_sq of the head's weight, then of its bias: of the steps with scores, and of the steps of the
  // head alone, which are two optimizers.
  std::vector<Tensor> head_joint_moments, head_only_moments;
};

struct SeamTrainerOptions {
  std::vector<double> penalty;  // constant gradient of each weight's scores
  bool train_head;              // whether steps with scores step the head, too
  bool read_last_word;      // the LSTM is read out at the last real word, without padding; else at the last position
  double target_weight;     // of target documents in the loss
  std::string lazy_update;  // of rows whose words do not occur: "quadrature", "replay" or "off" (all rows in each step)
};

// Why an epoch stopped. what: what was not finite: -1 nothing, 0 the loss, 1 to 7 the gradient of a weight, 8 and 9 of
// the head.
struct SeamFailure {
  int64_t what = -1;
  double loss = 0;
};

// The state of a module between two epochs, all of it on the CPU.
struct SeamEvaluation {
  bool finite = true;                // whether all scores and the head are
  std::vector<int64_t> kept_counts;  // positive scores of each tensor; then of the embedding's last row
  std::vector<Tensor> keep_bits;     // the signs of each tensor's scores, as numpy.packbits(score > 0)
  std::vector<Tensor> head;          // copies of weight and bias
  Tensor logits;                     // class_logits of the given documents; undefined without documents
  Tensor outputs;                    // (N, 2): what the head makes of them
};

// The documents that a module is evaluated on, all on the CPU; none: not evaluated. If the module's scores have not
// changed since, `logits` is what class_logits gave for them, and ids, score_rows and lengths are not needed.
struct EvaluationDocuments {
  OptionalTensor ids, score_rows, lengths;  // as for class_logits
  OptionalTensor is_target;                 // bool (N,)
  OptionalTensor logits;
};

// The result of an epoch. evaluation and counts are unset where it failed.
struct SeamEpoch {
  double loss = 0;  // mean over the steps
  SeamFailure failure;
  SeamEvaluation evaluation;
  BinaryCounts counts;  // of the evaluation documents
};

class SeamTrainer {
 public:
  // Checks everything. Keeps the tensors. All rows of the embedding's scores begin with the state of the last row,
  // which must be the same in each column; to begin with other states, set them and call `load_state`.
  static std::shared_ptr<SeamTrainer> make(SeamTrainerTensors tensors, const SeamTrainerOptions& options);
  virtual ~SeamTrainer() = default;

  // Sets the learning rates of the steps to come, of which at most `steps` are steps with scores.
  virtual void begin_epoch(double lr_mask, double lr_head, int64_t steps) = 0;

  // Steps of `batch` documents each over the documents [begin, end). score_rows (N, T) int32: each word's row of the
  // embedding's scores; lengths (N,) int64; target_probability (N,), of the scores' dtype and on the CPU: 1 and 0 for
  // true labels, between for soft ones. Returns the loss of each step.
  virtual std::tuple<std::vector<double>, SeamFailure> train(const Tensor& score_rows, const Tensor& lengths,
                                                             const Tensor& target_probability, int64_t batch,
                                                             int64_t begin, int64_t end) = 0;

  // A whole epoch in one call: begin_epoch, train and flush.
  std::tuple<std::vector<double>, SeamFailure> epoch(double lr_mask, double lr_head, const Tensor& score_rows,
                                                     const Tensor& lengths, const Tensor& target_probability,
                                                     int64_t batch);

  // A whole epoch of a module in one call, because each call from Python waits for the GIL when it returns: draws the
  // documents (keys: see DrawnDocuments), takes the steps, of the head alone if head_only, and evaluates the module.
  SeamEpoch run(const DrawnDocuments& documents, const std::vector<uint64_t>& keys, double lr_mask, double lr_head,
                int64_t batch, bool head_only, const EvaluationDocuments& evaluation_documents);

  // The result of an epoch, from its losses and the evaluation after it.
  static SeamEpoch concluded(const std::vector<double>& losses, const SeamFailure& failure, SeamEvaluation evaluation,
                             const EvaluationDocuments& evaluation_documents);

  // Steps of the head alone. features (N, C): the class logits of the masked base for the documents.
  virtual std::tuple<std::vector<double>, SeamFailure> train_head(const Tensor& features,
                                                                  const Tensor& target_probability, int64_t batch,
                                                                  int64_t begin, int64_t end) = 0;

  // Brings all scores up to date, so that they may be read.
  virtual void flush() = 0;

  // Takes scores, exp_avg and exp_avg_sq as they are in memory, as the state after `steps` steps with scores and
  // `head_steps` steps of the head alone.
  virtual void load_state(int64_t steps, int64_t head_steps) = 0;

  // Class logits of the masked base: ids (N, T) int64; score_rows (N, T) int32, lengths (N,) int64 -> (N, C).
  virtual Tensor class_logits(const Tensor& ids, const Tensor& score_rows, const Tensor& lengths) = 0;

  // Class logits of the base itself, without masks: (N, C), on the CPU.
  virtual Tensor base_logits(const Tensor& ids, const Tensor& lengths) = 0;

  // Brings scores up to date and returns their state, with the class logits of documents, if they are given. One call,
  // because on a GPU each of its parts alone would synchronise.
  virtual SeamEvaluation evaluate(const OptionalTensor& ids, const OptionalTensor& score_rows,
                                  const OptionalTensor& lengths) = 0;

  // Steps taken so far, with scores and of the head alone. Thread-safe.
  int64_t steps() const { return steps_.load(std::memory_order_relaxed); }

 protected:
  std::atomic<int64_t> steps_{0};
};

// The score_rows of documents, as `train` takes them. ids (N, T) int64; lengths (N,) int64; row_of_id (V,) int32: the
// score row of each id, `absent_row` for ids without one. Padding that is not read gets row 0. Raises ValueError for
// words without a row.
Tensor score_rows_of(const Tensor& row_of_id, int64_t absent_row, const Tensor& ids, const Tensor& lengths,
                     bool read_last_word);

}  // namespace seam
