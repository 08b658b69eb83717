// Runs a masked LSTM classifier of one layer in one direction over documents, without gradients, in one thread.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "huge_pages.h"
#include "kernels.h"
#include "sequence_plan.h"

namespace seam {

// Memory that grows when needed and is never initialised.
template <typename T>
class Buffer {
 public:
  T* get(int64_t size) {
    if (size > size_) {
      const int64_t wanted = size + size / 4;
      memory_ = empty_scratch(wanted * int64_t(sizeof(T)), at::kByte);
      size_ = wanted;
    }
    return reinterpret_cast<T*>(memory_.data_ptr());
  }

 private:
  at::Tensor memory_;
  int64_t size_ = 0;
};

// Numbers the distinct values of a batch in the order of their first occurrence.
class UniqueIndex {
 public:
  void begin(int64_t values) {
    if (int64_t(seen_.size()) < values) seen_.resize(values, 0);
    first_ = next_;
    if (first_ > std::numeric_limits<int32_t>::max() - (int64_t{1} << 30)) {  // before the numbers overflow
      std::fill(seen_.begin(), seen_.end(), 0);
      next_ = first_ = 1;
    }
  }
  // The index of a value; `added` says whether it is its first occurrence.
  int32_t number(int64_t value, bool& added) {
    added = seen_[value] < first_;
    if (added) seen_[value] = int32_t(next_++);
    return int32_t(seen_[value] - first_);
  }

 private:
  std::vector<int32_t>
      seen_;  // [values] first_ + the index; less than first_ if the value has not occurred in this batch
  int64_t first_ = 1, next_ = 1;
};

// The LSTM's weights with their scores, the linear layer's after masking.
template <typename T>
struct ClassifierWeights {
  int64_t words, input_size, hidden_size, classes;
  Masked<T> weight_ih, weight_hh, bias_ih, bias_hh;
  const T *linear, *linear_bias;
  const T* zeros;  // [max(input_size, hidden_size)]
};

struct Documents {
  const int64_t* word;    // [documents, width]
  const int64_t* length;  // [documents], 1 to width
  int64_t width;
  bool read_last_word;  // read out at the last real word, without padding; else at the last position
  int64_t steps_of(int64_t i) const { return read_last_word ? length[i] : width; }
};

// Indices of the documents, sorted by length where padding is not read, so that documents of similar length share a
// batch.
inline std::vector<int64_t> order_by_length(const Documents& d, int64_t count) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (d.read_last_word) {
    std::stable_sort(order.begin(), order.end(), [&d](int64_t a, int64_t b) { return d.length[a] < d.length[b]; });
  }
  return order;
}

template <typename T>
class DocumentReader {
 public:
  explicit DocumentReader(const CpuKernels<T>& kernels) : kernels_(kernels) {}

  // logits[i, C] of the documents i in order[0, count). gather(position, out) writes the effective embedding of the
  // word at d.word[position] and returns false if it is all 0; it is called once for each distinct word of some
  // thousand documents.
  template <class Gather>
  void read(const ClassifierWeights<T>& w, const Documents& d, const int64_t* order, int64_t count, Gather&& gather,
            T* logits) {
    pack(w);
    for (int64_t at = 0; at < count; at += kProjectedAtOnce) {
      const int64_t end = std::min(at + kProjectedAtOnce, count);
      const int32_t* const number = project(w, d, order + at, end - at, gather);
      for (int64_t i = at; i < end; i += kDocumentsAtOnce) {
        recur(
            w, d, order + i, std::min(kDocumentsAtOnce, end - i), projected_.get(0),
            [&](int64_t k, int64_t t) { return number[(i - at + k) * d.width + t]; }, logits);
      }
    }
  }

  // The same, where `projected` is the result of `project_words` for the same weights.
  void read_projected(const ClassifierWeights<T>& w, const Documents& d, const int64_t* order, int64_t count,
                      const T* projected, T* logits) {
    pack(w);
    for (int64_t i = 0; i < count; i += kDocumentsAtOnce) {
      recur(
          w, d, order + i, std::min(kDocumentsAtOnce, count - i), projected,
          [&](int64_t k, int64_t t) { return int32_t(d.word[order[i + k] * d.width + t]); }, logits);
    }
  }

  // out[word, 4H] = W_ih x + b of every row x of a table [words, input_size], with the same bits as in `read`.
  void project_words(const ClassifierWeights<T>& w, const T* table, T* out) { project_rows(w, table, w.words, out); }

 private:
  static constexpr int64_t kProjectedAtOnce = 1024;
  static constexpr int64_t kDocumentsAtOnce = 96;  // whole tiles; their states fit into the inner caches

  MaskedLstmBackwardParams<T> layer(const ClassifierWeights<T>& w) const {
    MaskedLstmBackwardParams<T> p{};
    p.input_size = w.input_size, p.hidden_size = w.hidden_size;
    p.weight_ih = w.weight_ih, p.weight_hh = w.weight_hh;
    p.bias_ih = w.bias_ih, p.bias_hh = w.bias_hh;
    p.zeros = w.zeros;
    return p;
  }

  void pack(const ClassifierWeights<T>& w) {
    MaskedLstmBackwardParams<T> p = layer(w);
    p.packed = kernels_.unit_blocks(w.hidden_size);
    p.packed_hh = packed_.get(p.packed * kernels_.packed_block_size(w.hidden_size));
    kernels_.pack_recurrent(p, 0, p.packed);
  }

  void project_rows(const ClassifierWeights<T>& w, const T* x, int64_t count, T* out) {
    while (int64_t(word_time_index_.size()) < count) word_time_index_.push_back({0, int32_t(word_time_index_.size())});
    const int64_t rows[2] = {0, count};
    MaskedLstmBackwardParams<T> p = layer(w);
    p.first_row = rows;
    p.time_index = word_time_index_.data();
    p.input = {x, 0, w.input_size};
    p.gates = out;
    kernels_.project(p, 0, 1, 0, kernels_.unit_blocks(w.hidden_size),
                     scratch_.get(kernels_.scratch_size(w.input_size, w.hidden_size, count)));
  }

  // W_ih x + b of each distinct word, into projected_; returns the row there of each word of the documents, [count,
  // width].
  template <class Gather>
  const int32_t* project(const ClassifierWeights<T>& w, const Documents& d, const int64_t* order, int64_t count,
                         Gather&& gather) {
    const int64_t E = w.input_size, G = kGates * w.hidden_size;
    seen_.begin(w.words);
    int32_t* const number = number_.get(count * d.width);
    T* const x = x_.get((std::min(count * d.width, w.words) + 1) * E);
    std::fill_n(x, E, T(0));  // row 0: of all words whose effective embedding is zero
    int64_t U = 1;
    position_.clear();
    for (int64_t k = 0; k < count; ++k) {
      const int64_t first = order[k] * d.width;
      for (int64_t t = 0; t < d.steps_of(order[k]); ++t) {
        bool added;
        const int32_t n = seen_.number(d.word[first + t], added);
        if (added) position_.push_back(gather(first + t, x + U * E) ? int32_t(U++) : 0);
        number[k * d.width + t] = position_[n];
      }
    }
    project_rows(w, x, U, projected_.get(U * G));
    return number;
  }

  // The LSTM and the linear layer over the documents order[0, B). row_of(k, t): the row of `projected` of word t of
  // document order[k].
  template <class RowOf>
  void recur(const ClassifierWeights<T>& w, const Documents& d, const int64_t* order, int64_t B, const T* projected,
             RowOf&& row_of, T* logits) {
    const int64_t H = w.hidden_size, G = kGates * H;
    lengths_.resize(B);
    for (int64_t b = 0; b < B; ++b) lengths_[b] = d.steps_of(order[b]);
    plan_.make(d.width, B, 1, lengths_.data());
    int32_t* const projected_row = projected_row_.get(plan_.rows());
    for (int64_t row = 0; row < plan_.rows(); ++row) {
      TimeIndex& index = plan_.time_index[0][row];
      projected_row[row] = row_of(index.sequence, index.time);
      index.time &= 1;  // states of two steps suffice: this one and the one before
    }
    MaskedLstmBackwardParams<T> p = layer(w);
    p.first_row = plan_.first_row.data();
    p.sequence = plan_.sequence.data();
    p.time_index = plan_.time_index[0].data();
    p.projected = projected;
    p.projected_row = projected_row;
    p.gates = gates_.get(B * (kGates + 1) * H);
    p.cells = p.gates + B * G;
    p.output = {output_.get(2 * B * H), B * H, H};
    p.packed = kernels_.unit_blocks(H);
    p.packed_hh = packed_.get(0);
    T* const scratch = nullptr;  // not used, since all of W_hh is packed
    for (int64_t step = 0; step < plan_.steps; ++step) {
      p.gates_from = plan_.first_row[step];
      kernels_.recur(p, step, step + 1, 0, kernels_.row_tiles(B), scratch);
    }
    T* const state = state_.get(B * H);
    T* const out = logits_.get(B * w.classes);
    for (int64_t rank = 0; rank < B; ++rank) {
      const int32_t b = int32_t(plan_.sequence[rank]);
      std::memcpy(state + b * H, p.output.at({int32_t((plan_.length[rank] - 1) & 1), b}), H * sizeof(T));
    }
    kernels_.linear({B, H, w.classes, w.linear, w.linear_bias, state, out});
    for (int64_t b = 0; b < B; ++b) {
      std::memcpy(logits + order[b] * w.classes, out + b * w.classes, w.classes * sizeof(T));
    }
  }

  const CpuKernels<T>& kernels_;
  SequencePlan plan_;
  UniqueIndex seen_;
  std::vector<int64_t> lengths_;
  std::vector<int32_t> position_;  // the projected row of each distinct word
  std::vector<TimeIndex> word_time_index_;
  Buffer<int32_t> number_, projected_row_;
  Buffer<T> x_, projected_, packed_, gates_, output_, scratch_, state_, logits_;
};

}  // namespace seam
