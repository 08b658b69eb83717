// The documents of a module's epochs, drawn natively: what Sampler.epoch of seam_fast/sampling.py gives, as `train` takes it.
#pragma once

#include <cstdint>
#include <vector>

#include "checks.h"

namespace seam {

// Where a module's documents come from, and how many of them an epoch has. All tensors are on the CPU and contiguous.
struct DocumentPool {
  Tensor ids, lengths, rest;      // int64, of all documents: words (N, T), how many of them are read, 0 target and 1 rest
  Tensor targets, others;         // int64: the numbers of those that may be used
  int64_t some_targets, some_others;  // how many of them an epoch has; where that is all, none is drawn
  int64_t unknown_id;             // the word that takes a dropped one's place
  uint64_t least;                 // a word is dropped where the number drawn for it is below; 0: none is drawn
  Tensor slot;                    // int32 (V,): the row of scores of each word, `absent` for words without one
  int64_t absent;
  at::ScalarType dtype;           // of shares
  bool read_last_word;
  double distill = 0;             // share of a label that is what the base gives the target; 0: the base is not asked
  std::vector<int64_t> target;    // its classes
};

class DrawnDocuments {
 public:
  // Raises what is wrong with the pool.
  explicit DrawnDocuments(DocumentPool pool);

  struct Epoch {
    Tensor ids, slots, lengths, labels, shares;  // shares: as the labels have it
  };

  // keys: of Philox, two numbers for each thing that is drawn: targets, others, their order, dropped words.
  Epoch draw(const std::vector<uint64_t>& keys) const;

  bool asks_the_base() const { return pool_.distill > 0; }
  // Shares of an epoch's documents of whom the base says these logits (n, C).
  Tensor soft_shares(const Epoch& epoch, const Tensor& logits) const;

 private:
  DocumentPool pool_;
  size_t drawn_;  // how many things are drawn
};

}  // namespace seam
