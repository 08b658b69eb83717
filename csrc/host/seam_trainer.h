// The training engine: whole epochs of one module, natively. seam_fast/native.py drives it; reference.Stepper is its truth.
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
// bias_hh (4H), linear weight (C, H), linear bias (C). All are contiguous, on one device and of one dtype: float32, or on the CPU float64.
struct SeamTrainerTensors {
  std::vector<Tensor> weights;                      // frozen; shared by all modules of a base
  Tensor rows;                                      // int64 (R,): the words that have scores of their own
  std::vector<Tensor> scores, exp_avg, exp_avg_sq;  // updated in place; of the embedding (R + 1, E), the last for all others
  std::vector<Tensor> head;                         // weight (2, C), bias (2,); updated in place
  std::vector<Tensor> head_together, head_alone;    // exp_avg and exp_avg_sq of weight, then of bias, in either Adam
};

struct SeamTrainerOptions {
  std::vector<double> penalty;  // constant gradient of each weight's scores
  bool train_head;              // step the head, too, when the scores are stepped
  bool read_last_word;          // at the last real word, without padding; else after the last position
  double target_weight;         // of target documents in the loss
  std::string catch_up;         // quadrature, replay or dense
};

// What stopped an epoch: what was not finite, -1 for nothing, 0 the loss, 1 to 7 the gradient of a weight, 8 and 9 of the head.
struct SeamFailure {
  int64_t what = -1;
  double loss = 0;
};

// What a trainer shows between two epochs, all of it on the CPU.
struct SeamLook {
  bool finite = true;         // whether all scores and the head are
  std::vector<int64_t> kept;  // how many scores of each tensor are positive; then of the row for words without their own
  std::vector<Tensor> bits;   // which, eight to a byte, the first the highest, as NumPy packs them
  std::vector<Tensor> head;   // weight and bias, copied
  Tensor logits;              // as class_logits gives them; undefined where no documents were given
  Tensor outputs;             // (N, 2), likewise: of the head
};

// Which documents a module is looked at by, all on the CPU; undefined where there are none. Of a module whose scores stand
// still since, `logits` are what class_logits said of them.
struct SeamLookedAt {
  OptionalTensor ids, slots, lengths;  // as for class_logits
  OptionalTensor is_target;            // bool (N,)
  OptionalTensor logits;
};

// What became of an epoch, and of the module by it: the look stands for nothing where the epoch failed.
struct SeamEpoch {
  double loss = 0;  // the mean of its steps
  SeamFailure failure;
  SeamLook look;
  BinaryCounts counts;  // of the documents looked at
};

class SeamTrainer {
 public:
  // Checks everything. Keeps the tensors. All rows begin as the last one, which stands for all words without a row of
  // their own and is uniform; `adopt` takes others.
  static std::shared_ptr<SeamTrainer> make(SeamTrainerTensors tensors, const SeamTrainerOptions& options);
  virtual ~SeamTrainer() = default;

  // Learning rates of the steps to come, at most `steps` of them with scores.
  virtual void begin_epoch(double lr_mask, double lr_head, int64_t steps) = 0;

  // Steps of `batch` documents over the documents [begin, end): slots (N, T) int32, the row of scores of each word;
  // lengths (N,) int64; shares (N, 2), how much of each document is target and rest. Returns each step's loss.
  virtual std::tuple<std::vector<double>, SeamFailure> train(const Tensor& slots, const Tensor& lengths,
                                                             const Tensor& shares, int64_t batch, int64_t begin,
                                                             int64_t end) = 0;

  // A whole epoch in one call: begin_epoch, train and flush.
  std::tuple<std::vector<double>, SeamFailure> epoch(double lr_mask, double lr_head, const Tensor& slots,
                                                     const Tensor& lengths, const Tensor& shares, int64_t batch);

  // A whole epoch of a module in one call, since each call from Python waits for Python's lock at its end: documents are drawn
  // (keys: see there), the scores or, where head_only, the head alone is stepped, and the module is looked at and judged.
  SeamEpoch run(const DrawnDocuments& documents, const std::vector<uint64_t>& keys, double lr_mask, double lr_head,
                int64_t batch, bool head_only, const SeamLookedAt& looked_at);

  // What an epoch's losses and the look after it come to.
  static SeamEpoch concluded(const std::vector<double>& losses, const SeamFailure& failure, SeamLook look,
                             const SeamLookedAt& looked_at);

  // Steps of the head alone. features (N, C): what the masked base says of the documents.
  virtual std::tuple<std::vector<double>, SeamFailure> train_head(const Tensor& features, const Tensor& shares,
                                                                  int64_t batch, int64_t begin, int64_t end) = 0;

  // Brings all scores up to date, so that they may be looked at.
  virtual void flush() = 0;

  // Takes scores, exp_avg and exp_avg_sq as they stand in memory, after `steps` steps with scores and `head_steps` of the
  // head alone.
  virtual void adopt(int64_t steps, int64_t head_steps) = 0;

  // What the masked base says: ids (N, T) int64, words; slots (N, T) int32, lengths (N,) int64 -> (N, C).
  virtual Tensor class_logits(const Tensor& ids, const Tensor& slots, const Tensor& lengths) = 0;

  // What the base itself says, without masks: (N, C), on the CPU.
  virtual Tensor base_logits(const Tensor& ids, const Tensor& lengths) = 0;

  // Scores and head as they stand, brought up to date, and what class_logits says of documents, if there are any: together,
  // since on a GPU each question for itself would be a wait of its own.
  virtual SeamLook look(const OptionalTensor& ids, const OptionalTensor& slots, const OptionalTensor& lengths) = 0;

  // Taken so far, by scores or head. Any thread may ask.
  int64_t steps() const { return steps_.load(std::memory_order_relaxed); }

 protected:
  std::atomic<int64_t> steps_{0};
};

// Documents as `train` is told of them, made of words ids (N, T), lengths (N,), labels (N,), 0 target and 1 rest, or (N, 2),
// shares of both, and slot (V,) int32, the row of scores of each word, which is `none` for words without one; all but slot
// int64 or, shares, of that dtype. Padding that is not read becomes row 0. Raises ValueError for other labels and for words
// without a row of their own.
std::tuple<Tensor, Tensor> documents_to_train(const Tensor& slot, int64_t none, const Tensor& ids, const Tensor& lengths,
                                              const Tensor& labels, at::ScalarType dtype, bool read_last_word);

}  // namespace seam
