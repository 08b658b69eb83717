// The documents of a module's epochs, drawn in native code: the same as those of Sampler.epoch of seam_fast, in the
// form that SeamTrainer::train takes.
#pragma once

#include <cstdint>
#include <vector>

#include "checks.h"

namespace seam {

// The documents that a module may be trained on, and how many of them an epoch has. All tensors are on the CPU and
// contiguous.
struct DocumentPool {
  Tensor ids, lengths;        // int64, of all documents: ids (N, T), lengths (N,)
  Tensor target_probability;  // (N,), of the scores' dtype: by the true labels, 1 target and 0 rest
  Tensor targets, others;     // int64: indices of the target documents and of the others that may be used
  int64_t targets_per_epoch, others_per_epoch;  // if that is all of them, none is drawn
  int64_t unknown_id;                           // replaces a dropped word
  uint64_t threshold;  // a word is dropped where its random number is below; 0: no word dropout, nothing is drawn
  Tensor row_of_id;    // int32 (V,): the score row of each id, `absent_row` for ids without one
  int64_t absent_row;
  bool read_last_word;
  double distill_weight = 0;            // weight of the base's own probability of the target; 0: the base is not run
  std::vector<int64_t> target_classes;  // whose probabilities are added up for that
};

class DrawnDocuments {
 public:
  // Raises what is wrong with the pool.
  explicit DrawnDocuments(DocumentPool pool);

  struct Epoch {
    Tensor ids, score_rows, lengths, target_probability;  // the last by the true labels alone, without the base
  };

  // keys: two numbers, a Philox key, for each of the draws that are made: targets, others, the order, the dropped
  // words.
  Epoch draw(const std::vector<uint64_t>& keys) const;

  bool needs_base_logits() const { return pool_.distill_weight > 0; }
  // That mixed with the base's predictions, whose logits (n, C) for the documents are given: target_probability (n,).
  Tensor soft_target_probability(const Epoch& epoch, const Tensor& logits) const;

 private:
  DocumentPool pool_;
  size_t draws_;  // how many draws an epoch makes
};

}  // namespace seam
