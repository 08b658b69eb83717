// A training step: find the batch's distinct score rows ("unique rows"), bring them up to date and gather their
// effective embeddings; project each of these once; run the LSTM by the op's kernels, then linear layer, head and loss;
// go back through all of that, with the gradients of equal words summed before they are multiplied; and update each
// tensor of scores in one pass. One file, because all of that works in the same scratch memory.
#include "seam_trainer_cpu.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "document_reader.h"
#include "embedding_rows.h"
#include "flush_denormals.h"
#include "host/ops.h"
#include "host/trainer_base.h"
#include "kernels.h"

namespace seam::cpu {

namespace {

constexpr int64_t kRowsPerChunk = 1024;  // the weights' gradients are summed in chunks of so many rows, as in the op
constexpr int64_t kRowsAhead = 4;        // how many rows ahead to prefetch
constexpr int64_t kNumbersAhead =
    1 << 15;  // prefetch rows of the next batch only if they have no more numbers than this

template <typename T>
class Trainer final : public TrainerBase {
 public:
  Trainer(SeamTrainerTensors tensors, const SeamTrainerOptions& options)
      : TrainerBase(std::move(tensors), options),
        kernels_(cpu_kernels<T>()),
        table_(tensors_.fed_ids.numel(), E_, tensors_.weights[kEmbedding].template const_data_ptr<T>(),
               tensors_.fed_ids.template const_data_ptr<int64_t>(), state(kEmbedding), options.penalty[kEmbedding],
               options.lazy_update == "off"      ? LazyUpdate::off
               : options.lazy_update == "replay" ? LazyUpdate::replay
                                                 : LazyUpdate::quadrature,
               kernels_),
        zeros_(std::max(E_, H_), T(0)),
        reader_(kernels_) {
    for (int w = 0; w < kWeights; ++w) {
      weight_[w] = tensors_.weights[w].template const_data_ptr<T>();
      rule_[w] = adam_rule<T>(kBeta1, kBeta2, kEps, options.penalty[w]);
    }
    head_rule_ = adam_rule<T>(kBeta1, kBeta2, kEps, 0);
    for (int i = 0; i < 2; ++i) head_[i] = tensors_.head[i].template mutable_data_ptr<T>();
  }

  void begin_epoch(double lr_mask, double lr_head, int64_t steps) override {
    const ExclusiveUse use(*this);
    check_epoch(lr_mask, lr_head, table_.now(), steps);
    lr_head_ = lr_head;
    table_.begin_epoch(lr_mask, steps);
  }

  std::tuple<std::vector<double>, SeamFailure> train(const Tensor& score_rows, const Tensor& lengths,
                                                     const Tensor& target_probability, int64_t batch, int64_t begin,
                                                     int64_t end) override {
    const ExclusiveUse use(*this);
    check_documents(score_rows, at::kInt, "score_rows", lengths, begin, end, batch);
    batch = std::min(batch, std::max<int64_t>(end - begin, 1));
    check_target_probability(target_probability, score_rows.size(0));
    const int64_t T_ = score_rows.size(1);
    const int32_t* score_row = score_rows.const_data_ptr<int32_t>();
    check_score_rows(score_rows, begin, end, table_.rows() - 1);
    check_steps_left((end - begin + batch - 1) / batch, table_.steps_left());
    std::vector<double> losses;
    SeamFailure failure;
    for (int64_t at = begin; at < end && failure.what < 0; at += batch) {
      const int64_t B = std::min(batch, end - at);
      find_next_rows(score_row, lengths.const_data_ptr<int64_t>(), T_, at + B, std::min(at + B + batch, end));
      const double loss = step(score_row + at * T_, lengths.const_data_ptr<int64_t>() + at,
                               target_probability.const_data_ptr<T>() + at, B, T_, failure);
      if (failure.what < 0) losses.push_back(loss), steps_.fetch_add(1, std::memory_order_relaxed);
    }
    return {losses, failure};
  }

  std::tuple<std::vector<double>, SeamFailure> train_head(const Tensor& features, const Tensor& target_probability,
                                                          int64_t batch, int64_t begin, int64_t end) override {
    const ExclusiveUse use(*this);
    check_features(features);
    check_range(begin, end, features.size(0), batch);
    check_target_probability(target_probability, features.size(0));
    batch = std::min(batch, std::max<int64_t>(end - begin, 1));
    std::vector<double> losses;
    SeamFailure failure;
    for (int64_t at = begin; at < end && failure.what < 0; at += batch) {
      const int64_t B = std::min(batch, end - at);
      const double loss =
          head_forward(features.const_data_ptr<T>() + at * C_, target_probability.const_data_ptr<T>() + at, B);
      if (!std::isfinite(loss)) {
        failure = {0, loss};
        break;
      }
      head_backward(B, nullptr);
      if ((failure.what = first_not_finite_head()) >= 0) break;
      step_head(tensors_.head_only_moments, adam_step_constants<T>(kBeta1, kBeta2, lr_head_, ++head_steps_));
      losses.push_back(loss);
      steps_.fetch_add(1, std::memory_order_relaxed);
    }
    return {losses, failure};
  }

  void flush() override {
    const ExclusiveUse use(*this);
    table_.flush();
  }

  void load_state(int64_t steps, int64_t head_steps) override {
    const ExclusiveUse use(*this);
    check_loaded_steps(steps, head_steps);
    table_.load_state(steps);
    head_steps_ = head_steps;
    steps_.store(steps + head_steps, std::memory_order_relaxed);
  }

  Tensor base_logits(const Tensor& ids, const Tensor& lengths) override {
    return seam::class_logits(tensors_.weights, ids, lengths, options_.read_last_word, std::nullopt);
  }

  Tensor class_logits(const Tensor& ids, const Tensor& score_rows, const Tensor& lengths) override {
    const ExclusiveUse use(*this);
    return read(ids, score_rows, lengths);
  }

  SeamEvaluation evaluate(const OptionalTensor& ids, const OptionalTensor& score_rows,
                          const OptionalTensor& lengths) override {
    const ExclusiveUse use(*this);
    table_.flush();
    SeamEvaluation evaluation;
    for (const Tensor& score : tensors_.scores) {
      const auto [bits, kept, finite] = pack_keep_bits(score);
      evaluation.keep_bits.push_back(bits);
      evaluation.kept_counts.push_back(kept);
      evaluation.finite &= finite;
    }
    evaluation.kept_counts.push_back(std::get<1>(pack_keep_bits(tensors_.scores[kEmbedding].select(0, table_.rows()))));
    for (const Tensor& part : tensors_.head) {
      evaluation.head.push_back(part.clone());
      evaluation.finite &= kernels_.all_finite(part.template const_data_ptr<T>(), part.numel());
    }
    if (ids) add_logits(evaluation, read(*ids, score_rows.value(), lengths.value()));
    return evaluation;
  }

 private:
  Tensor read(const Tensor& ids, const Tensor& score_rows, const Tensor& lengths) {
    check_evaluation_documents(ids, score_rows, lengths, table_.rows());
    const int64_t N = ids.size(0);
    const Tensor logits = at::empty({N, C_}, tensors_.head[0].options());
    table_.flush();
    pack_linear();
    const Documents d{ids.const_data_ptr<int64_t>(), lengths.const_data_ptr<int64_t>(), ids.size(1),
                      options_.read_last_word};
    const ClassifierWeights<T> w{tensors_.weights[kEmbedding].size(0),
                                 E_,
                                 H_,
                                 C_,
                                 masked(kWeightIh),
                                 masked(kWeightHh),
                                 masked(kBiasIh),
                                 masked(kBiasHh),
                                 linear_,
                                 linear_bias_,
                                 zeros_.data()};
    const int32_t* score_row = score_rows.const_data_ptr<int32_t>();
    auto gather = [&](int64_t position, T* out) {
      return table_.gather_word(score_row[position], d.word[position], out);
    };
    const std::vector<int64_t> order = order_by_length(d, N);
    reader_.read(w, d, order.data(), N, gather, logits.mutable_data_ptr<T>());
    return logits;
  }

  // Held during each call, with denormals flushed to zero.
  class ExclusiveUse : TrainerBase::ExclusiveUse {
   public:
    explicit ExclusiveUse(Trainer& trainer) : TrainerBase::ExclusiveUse(trainer) {}

   private:
    FlushDenormals guard_;
  };

  ScoreState<T> state(int w) const {
    return score_state<T>(tensors_.scores[w], tensors_.exp_avg[w], tensors_.exp_avg_sq[w]);
  }
  Masked<T> masked(int w) const { return {weight_[w], tensors_.scores[w].template const_data_ptr<T>()}; }

  // ---- A step -------------------------------------------------------------------------------------------------------

  double step(const int32_t* score_row, const int64_t* lengths, const T* target_probability, int64_t B, int64_t T_,
              SeamFailure& failure) {
    const CpuKernels<T>& kernels = kernels_;
    make_plan(lengths, B, T_);
    const int64_t rows = plan_.rows(), G = kGates * H_;

    // Words.
    unique_index_.begin(table_.rows());
    unique_rows_.clear();
    int32_t* const number = unique_index_of_row_.get(rows);
    for (int64_t row = 0; row < rows; ++row) {
      const TimeIndex index = plan_.time_index[0][row];
      const int64_t word = score_row[index.sequence * T_ + index.time];
      bool added;
      number[row] = unique_index_.number(word, added);
      if (added) unique_rows_.push_back(word);
    }
    const int64_t U = int64_t(unique_rows_.size());
    T* const x = x_.get((U + 1) * E_);
    const int64_t K = gather_nonzero_first(x);
    int32_t* const projected_row = projected_row_.get(rows);
    for (int64_t row = 0; row < rows; ++row) {
      number[row] = new_index_[number[row]];
      projected_row[row] = std::min(number[row], int32_t(K));
    }

    // Forward.
    T* const scratch = scratch_.get(kernels.scratch_size(E_, H_, std::max(rows, U)));
    T* const output = output_.get(plan_.steps * B * H_);
    MaskedLstmBackwardParams<T> p = layer();
    MaskedLstmBackwardParams<T> distinct = unique_rows_layer(x, U);
    word_rows_[1] = std::min(K + 1, U);
    distinct.gates = projected_.get(U * G);
    kernels.project(distinct, 0, 1, 0, kernels.unit_blocks(H_), scratch);
    p.projected = distinct.gates;
    p.projected_row = projected_row;
    p.output = {output, B * H_, H_};
    p.gates = gates_.get(rows * (kGates + 1) * H_);
    p.cells = p.gates + rows * G;
    p.save = true;
    pack_recurrent(p);
    kernels.recur(p, 0, plan_.steps, 0, kernels.row_tiles(B), scratch);
    T* const state = state_.get(B * H_);
    for (int64_t rank = 0; rank < B; ++rank) {
      const TimeIndex last = plan_.time_index[0][plan_.first_row[plan_.length[rank] - 1] + rank];
      std::memcpy(state + plan_.sequence[rank] * H_, p.output.at(last), H_ * sizeof(T));
    }
    pack_linear();
    T* const logits = logits_.get(B * C_);
    kernels.linear({B, H_, C_, linear_, linear_bias_, state, logits});
    const double loss = head_forward(logits, target_probability, B);
    if (!std::isfinite(loss)) {
      failure = {0, loss};
      return loss;
    }

    // Backward.
    T* const d_logits = d_logits_.get(B * C_);
    head_backward(B, d_logits);
    T* const d_state = d_state_.get(B * H_);
    sums_.get(sum_at(kWeights));
    kernels.linear_gradient({B, H_, C_, linear_, state, d_logits, sum(kLinear), sum(kLinearBias), d_state});
    p.d_h = d_h_.get(2 * B * H_);
    p.d_c = p.d_h + B * H_;
    for (int64_t rank = 0; rank < B; ++rank) {
      std::memcpy(p.d_h + rank * H_, d_state + plan_.sequence[rank] * H_, H_ * sizeof(T));
    }
    std::memset(p.d_c, 0, B * H_ * sizeof(T));
    std::memset(sum(kWeightIh), 0, (sum_at(kBiasHh) - sum_at(kWeightIh)) * sizeof(T));
    p.d_gates = p.gates;
    p.sum_hh = sum(kWeightHh);
    pack_recurrent_backward(p);
    const int64_t chunk = std::max<int64_t>(kRowsPerChunk / B, 1);
    for (int64_t to = plan_.steps; to > 0; to -= chunk) {
      const int64_t from = std::max<int64_t>(to - chunk, 0);
      kernels.backward_steps(p, from, to, 0, kernels.row_tiles(B), scratch);
      kernels.outer(p, from, to, 0, kernels.outer_tasks(p), scratch);
    }
    distinct.d_gates = distinct.gates;  // overwrites the projections, which are no longer needed
    sum_by_word(p.d_gates, number, rows, distinct.d_gates);
    word_rows_[1] = K;  // the other rows are zero and add nothing to the gradient of W_ih
    distinct.sum_ih = sum(kWeightIh);
    kernels.outer(distinct, 0, 1, 0, kernels.outer_tasks(distinct), scratch);
    word_rows_[1] = U;
    T* const d_x = d_x_.get(U * E_);
    distinct.grad_input = {d_x, 0, E_};
    distinct.sum_ih = nullptr;
    distinct.sum_bias = sum(kBiasIh);
    kernels.outer(distinct, 0, 1, 0, kernels.outer_tasks(distinct), scratch);

    if ((failure.what = first_not_finite(d_x, U)) >= 0) return loss;
    for (int w = kWeightIh; w < kWeights; ++w) {
      const T* const of = sum(w == kBiasHh ? kBiasIh : w);  // both biases share one gradient
      kernels.update_scores({tensors_.scores[w].numel(), this->state(w), weight_[w], of, rule_[w], table_.next_step()});
    }
    if (options_.train_head) {
      step_head(tensors_.head_joint_moments, adam_step_constants<T>(kBeta1, kBeta2, lr_head_, table_.now() + 1));
    }
    // Last, because it is bound by arithmetic and so leaves time to prefetch the rows of the next batch.
    for (int64_t u = 0; u < U; ++u) {
      if (u + kRowsAhead < U) table_.prefetch(unique_rows_[u + kRowsAhead]);
      if (u < int64_t(next_rows_.size())) table_.prefetch(next_rows_[u]);
      table_.update(unique_rows_[u], d_x + u * E_);
    }
    table_.take_step();
    return loss;
  }

  // Finds the unique rows of the next batch, the documents [begin, end), if they are few enough to stay in the cache.
  void find_next_rows(const int32_t* score_row, const int64_t* lengths, int64_t T_, int64_t begin, int64_t end) {
    next_rows_.clear();
    if ((end - begin) * T_ * E_ > kNumbersAhead) return;
    unique_index_.begin(table_.rows());
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t t = 0; t < (options_.read_last_word ? lengths[i] : T_); ++t) {
        bool added;
        unique_index_.number(score_row[i * T_ + t], added);
        if (!added) continue;
        next_rows_.push_back(score_row[i * T_ + t]);
        table_.prefetch_info(next_rows_.back());
      }
    }
  }

  // Brings the unique rows up to date and gathers their effective embeddings, those that are not zero first; the others
  // share one row of zeros behind them. Reorders unique_rows_, old index u becoming new_index_[u]; returns how many are
  // not zero.
  int64_t gather_nonzero_first(T* x) {
    const int64_t U = int64_t(unique_rows_.size());
    new_index_.resize(U);
    sorted_.resize(U);
    int64_t front = 0, back = U;
    for (int64_t u = 0; u < U; ++u) {
      if (u + kRowsAhead < U) table_.prefetch(unique_rows_[u + kRowsAhead]);
      table_.bring_up_to_date(unique_rows_[u]);
      const bool kept = table_.gather(unique_rows_[u], x + front * E_);
      const int64_t position = kept ? front++ : --back;
      new_index_[u] = int32_t(position);
      sorted_[position] = unique_rows_[u];
    }
    unique_rows_.swap(sorted_);
    std::fill_n(x + front * E_, E_, T(0));
    return front;
  }

  void make_plan(const int64_t* lengths, int64_t B, int64_t T_) {
    if (options_.read_last_word) {
      plan_.make(T_, B, 1, lengths);
    } else if (plan_.steps != T_ || int64_t(plan_.sequence.size()) != B) {
      plan_ = SequencePlan(T_, B, 1, nullptr);  // else that of the last step still holds
    }
  }

  // The parameters that every pass through the LSTM has in common.
  MaskedLstmBackwardParams<T> layer() const {
    MaskedLstmBackwardParams<T> p{};
    p.input_size = E_, p.hidden_size = H_;
    p.first_row = plan_.first_row.data();
    p.sequence = plan_.sequence.data();
    p.time_index = plan_.time_index[0].data();
    p.weight_ih = masked(kWeightIh), p.weight_hh = masked(kWeightHh);
    p.bias_ih = masked(kBiasIh), p.bias_hh = masked(kBiasHh);
    p.zeros = zeros_.data();
    return p;
  }

  // The unique rows as the packed rows of a single step, for the products outside the recurrence.
  MaskedLstmBackwardParams<T> unique_rows_layer(const T* x, int64_t U) {
    while (int64_t(word_time_index_.size()) < U) word_time_index_.push_back({0, int32_t(word_time_index_.size())});
    word_rows_[0] = 0, word_rows_[1] = U;
    MaskedLstmBackwardParams<T> p = layer();
    p.first_row = word_rows_;
    p.time_index = word_time_index_.data();
    p.input = {x, 0, E_};
    return p;
  }

  void pack_recurrent(MaskedLstmBackwardParams<T>& p) {
    const CpuKernels<T>& kernels = kernels_;
    p.packed = kernels.unit_blocks(H_);
    p.packed_hh = packed_.get(p.packed * kernels.packed_block_size(H_));
    kernels.pack_recurrent(p, 0, p.packed);
  }

  void pack_recurrent_backward(MaskedLstmBackwardParams<T>& p) {
    const CpuKernels<T>& kernels = kernels_;
    p.packed = kernels.column_panels(H_);
    p.packed_hh = packed_.get(p.packed * kernels.packed_panel_size(H_));
    kernels.pack_recurrent_backward(p, 0, p.packed);
  }

  void pack_linear() {
    linear_ = packed_linear_.get(C_ * (H_ + 1));
    linear_bias_ = linear_ + C_ * H_;
    const Masked<T> w = masked(kLinear), b = masked(kLinearBias);
    kernels_.effective(w.weight, w.score, linear_, C_ * H_);
    kernels_.effective(b.weight, b.score, linear_bias_, C_);
  }

  // Sums the packed rows of the same word, in their order.
  void sum_by_word(const T* d_gates, const int32_t* number, int64_t rows, T* out) {
    const int64_t G = kGates * H_;
    has_sum_.assign(unique_rows_.size(), false);
    for (int64_t row = 0; row < rows; ++row) {
      T* const to = out + number[row] * G;
      if (has_sum_[number[row]]) {
        kernels_.add(d_gates + row * G, to, G);
      } else {
        std::memcpy(to, d_gates + row * G, G * sizeof(T));
        has_sum_[number[row]] = true;
      }
    }
  }

  // Where in sums_ the gradient of an effective weight is; both biases share one.
  int64_t sum_at(int w) const {
    const int64_t G = kGates * H_;
    const int64_t sizes[kWeights] = {0, G * E_, G * H_, G, 0, C_ * H_, C_};
    int64_t at = 0;
    for (int i = 0; i < w; ++i) at += sizes[i];
    return at;
  }
  T* sum(int w) { return sums_.get(0) + sum_at(w); }

  int64_t first_not_finite(const T* d_x, int64_t U) {
    const CpuKernels<T>& kernels = kernels_;
    if (!kernels.all_finite(d_x, U * E_)) return 1 + kEmbedding;
    for (int w = kWeightIh; w < kWeights; ++w) {
      if (w != kBiasHh && !kernels.all_finite(sum(w), tensors_.weights[w].numel())) return 1 + w;
    }
    return first_not_finite_head();
  }

  int64_t first_not_finite_head() {
    const CpuKernels<T>& kernels = kernels_;
    if (!kernels.all_finite(d_head_.get(0), 2 * C_)) return 1 + kWeights;
    return kernels.all_finite(d_head_.get(0) + 2 * C_, 2) ? -1 : 2 + kWeights;
  }

  // ---- The head and the loss ----------------------------------------------------------------------------------------

  // Returns the mean cross entropy in nats; keeps what head_backward needs.
  double head_forward(const T* logits, const T* target_probability, int64_t B) {
    T* const positive = positive_.get(B * C_);
    for (int64_t i = 0; i < B * C_; ++i) positive[i] = logits[i] > 0 ? logits[i] : logits[i] <= 0 ? T(0) : logits[i];
    T* const outputs = outputs_.get(2 * B);
    kernels_.linear({B, C_, 2, head_[0], head_[1], positive, outputs});
    T* const d_outputs = d_outputs_.get(2 * B);
    double loss = 0, total = 0;
    for (int64_t b = 0; b < B; ++b) {
      const double a = outputs[2 * b], c = outputs[2 * b + 1], larger = a > c ? a : c;
      const double log_sum = larger + std::log1p(std::exp(-std::abs(a - c)));
      const double target = target_probability[b] * options_.target_weight, rest = T(1) - target_probability[b];
      loss += target * (log_sum - a) + rest * (log_sum - c);
      total += options_.target_weight == 1 ? 1 : target + rest;
      d_outputs[2 * b] = T(std::exp(a - log_sum) * (target + rest) - target);
      d_outputs[2 * b + 1] = T(std::exp(c - log_sum) * (target + rest) - rest);
    }
    for (int64_t i = 0; i < 2 * B; ++i) d_outputs[i] = T(double(d_outputs[i]) / total);
    return loss / total;
  }

  // d_logits: (B, C) or null.
  void head_backward(int64_t B, T* d_logits) {
    T* const d_head = d_head_.get(2 * C_ + 2);
    kernels_.linear_gradient(
        {B, C_, 2, head_[0], positive_.get(0), d_outputs_.get(0), d_head, d_head + 2 * C_, d_logits});
    if (!d_logits) return;
    for (int64_t i = 0; i < B * C_; ++i) d_logits[i] = positive_.get(0)[i] > 0 ? d_logits[i] : T(0);
  }

  void step_head(const std::vector<Tensor>& adam, const AdamStep<T>& step) {
    for (int i = 0; i < 2; ++i) {
      const Tensor& part = tensors_.head[i];
      kernels_.update_scores({part.numel(), score_state<T>(part, adam[2 * i], adam[2 * i + 1]), nullptr,
                              d_head_.get(0) + (i ? 2 * C_ : 0), head_rule_, step});
    }
  }

  const CpuKernels<T>& kernels_;  // of the instruction set that was chosen when the trainer was made
  EmbeddingRows<T> table_;
  const T* weight_[kWeights];
  AdamRule<T> rule_[kWeights], head_rule_;
  T* head_[2];
  double lr_head_ = 0;
  int64_t head_steps_ = 0;
  std::vector<T> zeros_;
  DocumentReader<T> reader_;  // for evaluation

  // Of the current step.
  SequencePlan plan_;
  UniqueIndex unique_index_;
  std::vector<int64_t> unique_rows_, next_rows_, sorted_;  // score rows of this batch, of the next one
  std::vector<int32_t> new_index_;
  std::vector<bool> has_sum_;
  std::vector<TimeIndex> word_time_index_;
  int64_t word_rows_[2];
  T *linear_ = nullptr, *linear_bias_ = nullptr;
  Buffer<int32_t> unique_index_of_row_, projected_row_;  // of each packed row
  Buffer<T> x_, d_x_, projected_, gates_, output_, packed_, packed_linear_, scratch_, sums_;
  Buffer<T> state_, d_state_, d_h_, logits_, d_logits_, positive_, outputs_, d_outputs_, d_head_;
};

}  // namespace

std::shared_ptr<SeamTrainer> make_trainer(SeamTrainerTensors t, const SeamTrainerOptions& options) {
  check_trainer(t, options, {c10::DeviceType::CPU, true});
  std::shared_ptr<SeamTrainer> trainer;
  AT_DISPATCH_FLOATING_TYPES(t.weights[kEmbedding].scalar_type(), "seam_trainer",
                             [&] { trainer = std::make_shared<Trainer<scalar_t>>(std::move(t), options); });
  return trainer;
}

}  // namespace seam::cpu
