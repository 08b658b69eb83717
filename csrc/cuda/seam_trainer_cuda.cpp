// The host side of the engine: plans of some hundred steps each, memory, and a launch for each plan. Everything goes through the current
// stream; `train` and `train_head` wait for their launch, since what they return is what it found.
#include "seam_trainer_cuda.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/where.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <tuple>

#include "common/adam_constants.h"
#include "common/score_update.h"
#include "host/trainer_base.h"
#include "device_memory.h"
#include "class_logits_cuda.h"
#include "epoch_plan.h"
#include "masked_lstm_cuda.h"
#include "queued_epochs.h"

namespace seam::gpu {

namespace {

enum class Steps { automatic, cluster, wide };
std::atomic<Steps> chosen_steps = Steps::automatic;

// Counts the trainers of a device: as many modules, about, are trained there at the same time.
class Present {
 public:
  explicit Present(int index) : count_(counts[std::clamp(index, 0, kDevices - 1)]) { ++count_; }
  Present(const Present&) = delete;
  Present& operator=(const Present&) = delete;
  ~Present() { --count_; }
  int64_t modules() const { return count_; }

 private:
  static constexpr int kDevices = 64;
  static inline std::atomic<int64_t> counts[kDevices] = {};
  std::atomic<int64_t>& count_;
};

class Trainer final : public TrainerBase, public TrainerInParts {
 public:
  Trainer(SeamTrainerTensors tensors, const SeamTrainerOptions& options)
      : TrainerBase(std::move(tensors), options),
        rows_(tensors_.rows.numel()),
        device_(tensors_.weights[kEmbedding].options()),
        plan_(tensors_.rows.const_data_ptr<int64_t>(), rows_, options.catch_up == "dense"),
        here_(device_.device().index()) {
    const int64_t* row = tensors_.rows.const_data_ptr<int64_t>();
    word_.put(std::vector<int32_t>(row, row + rows_), device_);
    rule_ = adam_rule<float>(kBeta1, kBeta2, kEps, options_.penalty[kEmbedding]);
    gaps_.resize(kLongestGap + 1);
    has_gap_.resize(kLongestGap + 1);
    put_tables();
    take_fresh();
  }

  void begin_epoch(double lr_mask, double lr_head, int64_t steps) override {
    const Use use(*this);
    const c10::DeviceGuard guard(device_.device());
    check_epoch(lr_mask, lr_head, now_, steps);
    flush_rows();  // what was missed so far was missed at another rate
    first_ = now_;
    step_.resize(steps);
    head_step_.resize(steps);
    beta2_power_.resize(steps + 1);
    for (int64_t i = 0; i <= steps; ++i) beta2_power_[i] = std::pow(kBeta2, double(now_ + i));
    for (int64_t i = 0; i < steps; ++i) {
      step_[i] = adam_step_constants<float>(kBeta1, kBeta2, lr_mask, now_ + i + 1);
      head_step_[i] = adam_step_constants<float>(kBeta1, kBeta2, lr_head, now_ + i + 1);
    }
    tables_are_new_ = true;
    lr_ = lr_mask;
    lr_head_ = lr_head;
  }

  std::tuple<std::vector<double>, SeamFailure> train(const Tensor& slots, const Tensor& lengths, const Tensor& shares,
                                                     int64_t batch, int64_t begin, int64_t end) override {
    const Use use(*this);
    const c10::DeviceGuard guard(device_.device());
    begin_run(slots, lengths, shares, batch, begin, end);
    const gpu::Device device = gpu::device_of(tensors_.weights[kEmbedding]);
    for (size_t i = 0; i < launches(); ++i) {
      plan(i);
      const TrainParams p = put(device, i);
      if (p.layout.blocks) train_gate_rows(device, &p, 1);
      told_by_profile(p);
    }
    end_run();
    wait_for(device);
    return found_by_run();
  }

  std::tuple<std::vector<double>, SeamFailure> train_head(const Tensor& features, const Tensor& shares, int64_t batch,
                                                          int64_t begin, int64_t end) override {
    const Use use(*this);
    const c10::DeviceGuard guard(device_.device());
    begin_head(features, shares, batch, begin, end);
    if (head_.steps == 0) return {{}, {}};
    const gpu::Device device = gpu::device_of(tensors_.weights[kEmbedding]);
    gpu::train_head(device, &head_.p, 1);
    end_head();
    wait_for(device);
    return found_by_head();
  }

  void flush() override {
    const Use use(*this);
    const c10::DeviceGuard guard(device_.device());
    flush_rows();
  }

  void adopt(int64_t steps, int64_t head_steps) override {
    const Use use(*this);
    const c10::DeviceGuard guard(device_.device());
    check_adopted(steps, head_steps);
    now_ = first_ = steps;
    step_.clear();
    plan_.adopt(steps);
    take_fresh();
    head_steps_ = head_steps;
    failed_ = flushed_ = false;
    steps_.store(steps + head_steps, std::memory_order_relaxed);
  }

  Tensor class_logits(const Tensor& ids, const Tensor& slots, const Tensor& lengths) override {
    const Use use(*this);
    const c10::DeviceGuard guard(device_.device());
    return read(asked_, ids, slots, lengths);
  }

  Tensor base_logits(const Tensor& ids, const Tensor& lengths) override {
    return gpu::class_logits(tensors_.weights, ids, lengths, options_.read_last_word);
  }

  SeamLook look(const OptionalTensor& ids, const OptionalTensor& slots, const OptionalTensor& lengths) override {
    const Use use(*this);
    const c10::DeviceGuard guard(device_.device());
    begin_look(ids, slots, lengths);
    wait_for(gpu::device_of(tensors_.weights[kEmbedding]));
    return found_by_look();
  }

  // ---- An epoch in parts ---------------------------------------------------------------------------------------------------

  void begin_in_parts(const EpochOf& e, const DrawnDocuments::Epoch& drawn) override {
    TORCH_CHECK_VALUE(e.batch >= 1, "batch must be at least 1");
    const int64_t N = drawn.slots.size(0);
    const Tensor features = e.head_only ? class_logits(drawn.ids, drawn.slots, drawn.lengths) : Tensor();
    begin_epoch(e.lr_mask, e.lr_head, e.head_only ? 0 : (N + e.batch - 1) / e.batch);
    const Use use(*this);
    run_ = {}, head_ = {};  // whatever an epoch that was never taken has left
    if (e.head_only) begin_head(features, drawn.shares, e.batch, 0, N);
    else begin_run(drawn.slots, drawn.lengths, drawn.shares, e.batch, 0, N);
  }
  TrainHeadParams put_head() override { return head_.p; }
  size_t launches() const override { return run_.taken.size() - 1; }
  // After that of the launch before.
  void plan(size_t i) override { plan(i, run_.wide ? EpochPlan::by_time : EpochPlan::by_document); }
  TrainParams put(const gpu::Device& device, size_t i) override {
    TrainParams p = run_.p;
    const int64_t before = run_.taken[i];
    p.now = now_ + before;
    p.steps = int32_t(run_.taken[i + 1] - before);
    p.shares += 2 * before * run_.batch, p.fresh += 3 * before, p.losses += before, p.outcome += i;
    if (!run_.wide) {
      const GateRowSizes sizes = {int32_t(E_),       int32_t(H_),        int32_t(C_),      plan_.most_length,
                                  plan_.most_words, plan_.most_places, plan_.most_lists};
      const GateRowLayout layout = gate_row_layout(device, sizes, here_.modules());
      if (layout.blocks) {
        put_plan(p);
        take_gate_rows(p, layout);
        ask_for_profile(p);
        return p;
      }
      plan_.undo();
      plan(i, EpochPlan::by_time);
    }
    put_plan(p);
    take_recurrence(p);
    if (run_.wide) train_wide(device, p, wide_scratch(), plan_.steps.data());
    else gpu::train(device, p);
    return p;
  }
  void end_in_parts(const EpochOf& e) override {
    const Use use(*this);
    if (e.head_only) end_head();
    else end_run();
    begin_look(e.looked_at.ids, e.looked_at.slots, e.looked_at.lengths);
  }
  SeamEpoch take_in_parts(const EpochOf& e) override {
    const Use use(*this);
    const auto [losses, failure] = e.head_only ? found_by_head() : found_by_run();
    return concluded(losses, failure, found_by_look(), e.looked_at);
  }
  Tensor anything_there() const override { return tensors_.weights[kEmbedding]; }

 private:
  // ---- Looking -------------------------------------------------------------------------------------------------------------

  // Has the host told what is kept, and what class_logits says of documents, if there are any; once it has waited.
  void begin_look(const OptionalTensor& ids, const OptionalTensor& slots, const OptionalTensor& lengths) {
    flush_rows();
    LookParams& p = look_.params = {};
    int64_t words = 0;
    for (int w = 0; w < kWeights; ++w) {
      const Tensor& score = tensors_.scores[w];
      p.part[w] = {score.const_data_ptr<float>(), int32_t(score.numel()), int32_t(words)};
      words += (score.numel() + 31) / 32;
    }
    p.first_shared = int32_t(rows_ * E_);
    for (int i = 0; i < 2; ++i) {
      p.head[i] = tensors_.head[i].const_data_ptr<float>();
      p.head_numbers[i] = int32_t(tensors_.head[i].numel());
    }
    constexpr int64_t kMostBlocks = 64, kEach = 4;  // words of a warp, at least
    const int64_t blocks = std::clamp<int64_t>(words / (kEach * kLookWarps), 1, kMostBlocks), warps = blocks * kLookWarps;
    const int64_t heads = p.head_numbers[0] + p.head_numbers[1], size = words + heads + warps * LookParams::kCounts;
    uint32_t* const memory = look_there_.get<uint32_t>(size, device_);
    p.bits = memory;
    p.head_copy = reinterpret_cast<float*>(memory + words);
    p.counts = reinterpret_cast<int32_t*>(memory + words + heads);
    gpu::look(gpu::device_of(tensors_.weights[kEmbedding]), blocks, p);
    look_.words = words, look_.warps = warps;
    look_.told = look_there_.fetch<uint32_t>(size);
    look_.logits = ids ? fetched(read(looked_at_, *ids, slots.value(), lengths.value())) : Tensor();
  }

  // What a launch of gpu::look has told, in memory that is not wanted again for the next one.
  SeamLook found_by_look() {
    const LookQueued queued = std::exchange(look_, {});
    SeamLook look;
    const auto* const bits = static_cast<const uint8_t*>(queued.told.const_data_ptr());
    for (const LookParams::Part& part : queued.params.part) {
      look.bits.push_back(at::empty({(part.count + 7) / 8}, at::kByte));
      std::memcpy(look.bits.back().mutable_data_ptr(), bits + 4 * int64_t(part.first_word), size_t(part.count + 7) / 8);
    }
    const auto* head = reinterpret_cast<const float*>(bits + 4 * queued.words);
    for (const Tensor& part : tensors_.head) {
      look.head.push_back(at::empty(part.sizes(), at::kFloat));
      std::memcpy(look.head.back().mutable_data_ptr(), head, size_t(part.numel()) * sizeof(float));
      head += part.numel();
    }
    const auto* count = reinterpret_cast<const int32_t*>(head);
    look.kept.resize(LookParams::kTensors + 1);
    for (int64_t w = 0; w < queued.warps; ++w, count += LookParams::kCounts) {
      for (size_t i = 0; i < look.kept.size(); ++i) look.kept[i] += count[i];
      look.finite &= count[LookParams::kCounts - 1] == 0;
    }
    if (queued.logits.defined()) add_logits(look, queued.logits.clone(at::MemoryFormat::Contiguous));
    return look;
  }

  Tensor read(Mirrored& documents, const Tensor& ids, const Tensor& slots, const Tensor& lengths) {
    if (!documents.same(ids, slots, lengths)) {  // the same ones are looked at again and again
      check_looked_at(ids, slots, lengths, rows_);
      documents = {ids, slots, lengths, device_.device()};
    }
    flush_rows();
    const auto effective = [&](int w) { return at::where(tensors_.scores[w].gt(0), tensors_.weights[w], 0.0f); };
    const Tensor kept = tensors_.scores[kEmbedding].gt(0).to(at::kFloat);
    const Reader reader = {{tensors_.weights.begin() + kWeightIh, tensors_.weights.begin() + kLinear},
                           {tensors_.scores.begin() + kWeightIh, tensors_.scores.begin() + kLinear},
                           effective(kLinear),
                           effective(kLinearBias),
                           options_.read_last_word};
    return read_documents(reader, ids.size(0), ids.size(1), documents.there[2], [&](int64_t at, int64_t count) {
      const auto piece = [&](int i) { return documents.there[i].narrow(0, at, count).t(); };
      return at::mul(at::embedding(tensors_.weights[kEmbedding], piece(0)), at::embedding(kept, piece(1)));
    });
  }

  // Twice the warps of the largest cluster, and its threads.
  static constexpr int64_t kBadFlags = 2 * 16 * 8, kReasons = 16 * 256;

  // Whose numbers do not stand for anything since a step failed.
  void check_whole() const {
    TORCH_CHECK_VALUE(!failed_, "a step of this trainer has failed; make a new one, or set its scores and call adopt");
  }

  // ---- What kernels are given --------------------------------------------------------------------------------------------

  Scored scored(int w) const {
    return {tensors_.weights[w].const_data_ptr<float>(),
            score_state<float>(tensors_.scores[w], tensors_.exp_avg[w], tensors_.exp_avg_sq[w]),
            adam_rule<float>(kBeta1, kBeta2, kEps, options_.penalty[w])};
  }

  RowsParams rows_params() {
    const Scored all = scored(kEmbedding);
    const double penalty = all.rule.penalty;
    return {int32_t(E_),
            all.state,
            all.rule,
            options_.catch_up == "quadrature",
            first_,
            step_there_,
            beta2_power_there_,
            gaps_there_.get<GapRule<float>>(0, device_),
            float(lr_),
            penalty * penalty};
  }

  HeadParams head_params(const std::vector<Tensor>& adam, int64_t batch) {
    float* const scratch = head_scratch_.get<float>(batch * (C_ + 3), device_);
    return {int32_t(C_),
            float(options_.target_weight),
            score_state<float>(tensors_.head[0], adam[0], adam[1]),
            score_state<float>(tensors_.head[1], adam[2], adam[3]),
            adam_rule<float>(kBeta1, kBeta2, kEps, 0),
            scratch,
            scratch + batch * C_,
            scratch + batch * (C_ + 2)};
  }

  // ---- Steps in parts ----------------------------------------------------------------------------------------------------

  // What `train` was given, and what comes of it.
  struct Run {
    Tensor slots, lengths, shares;
    int64_t batch, begin, end;
    std::vector<int64_t> taken = {0};  // steps before each launch, if all goes well, and after the last
    TrainParams p;                     // all but what differs from launch to launch
    bool wide;
    Tensor told;                       // on its way to the host
  };

  void begin_run(const Tensor& slots, const Tensor& lengths, const Tensor& shares, int64_t batch, int64_t begin, int64_t end) {
    check_documents(slots, at::kInt, "slots", lengths, begin, end, batch);
    const int64_t whole = batch;  // what is left of an epoch goes the way that all of it goes
    batch = std::min(batch, std::max<int64_t>(end - begin, 1));
    check_shares(shares, slots.size(0));
    check_slots(slots, begin, end, rows_ - 1);
    const int64_t steps = (end - begin + batch - 1) / batch, T = slots.size(1);
    check_steps_left(steps, int64_t(step_.size()) - (now_ - first_));
    check_whole();
    run_ = {slots, lengths, shares, batch, begin, end};
    if (steps == 0) return;
    TORCH_CHECK_VALUE(T * batch < (int64_t{1} << 30) / std::max(kGates * H_, E_), "batches of ", batch, " documents of ", T,
                      " words are too large for one launch; choose smaller ones, or backend 'torch'");
    // A plan is made while the GPU takes the steps of the one before: the first is short, so that it need not wait for long.
    constexpr int64_t kFirst = 32, kMost = 512;
    for (int64_t most = kFirst; run_.taken.back() < steps; most = std::min(2 * most, kMost)) {
      run_.taken.push_back(std::min(run_.taken.back() + most, steps));
    }
    failed_ = true;  // until it has gone well: from here on the plan takes the steps for taken
    flushed_ = false;
    if (tables_are_new_) put_tables();
    const float* const share = shares.const_data_ptr<float>();
    TrainParams& p = run_.p = params();
    p.T = int32_t(T), p.batch = int32_t(batch);
    p.head = head_params(tensors_.head_together, batch);
    std::tie(p.shares, p.fresh) =
        documents_there_.put_all(device_, std::vector<float>(share + 2 * begin, share + 2 * end), fresh_states(steps));
    std::tie(p.outcome, p.losses) = room_to_tell(launches(), steps);
    run_.wide = takes_wide(gpu::device_of(tensors_.weights[kEmbedding]), whole);
  }

  void plan(size_t i, EpochPlan::Places places) {
    const int64_t first = run_.begin + run_.taken[i] * run_.batch;
    const int64_t last = std::min(run_.begin + run_.taken[i + 1] * run_.batch, run_.end);
    const float* const share = run_.shares.const_data_ptr<float>();
    plan_.make(places, run_.slots.const_data_ptr<int32_t>(),
               options_.read_last_word ? run_.lengths.const_data_ptr<int64_t>() : nullptr, run_.p.T, run_.batch, first, last,
               now_ + run_.taken[i], [&](int64_t from, int64_t to) { return total(share, from, to); });
  }

  void put_plan(TrainParams& p) {
    TORCH_CHECK_VALUE(plan_.numbers.size() < size_t{1} << 31, "the plan of so many steps is too large; take fewer at once");
    std::tie(p.plan, p.numbers) = plan_there_.put_all(device_, plan_.steps, plan_.numbers);
    need_gaps(p.now);
    p.rows = rows_params();
  }

  // After the last launch: has the host told what came of all, once it has waited. Until then they count as gone well.
  void end_run() {
    const int64_t steps = run_.taken.back();
    if (steps == 0) return;
    run_.told = fetch_told(launches(), steps);
    for (int k = 0; k < 3; ++k) fresh_[k] = fresh_states_[3 * steps + k];
    now_ += steps;
    failed_ = false;
  }

  std::tuple<std::vector<double>, SeamFailure> found_by_run() {
    const Run run = std::exchange(run_, {});
    if (run.taken.back() == 0) return {};
    const auto [outcomes, loss] = told_by(run.told, run.taken.size() - 1);
    const auto [outcome, steps] = first_that_failed(outcomes, run.taken);
    steps_.fetch_add(steps, std::memory_order_relaxed);
    failed_ |= outcome.what >= 0;
    return found(outcome, loss, steps);
  }

  // Whether the whole GPU takes the steps of batches of so many documents. A cluster takes about as long for half a million
  // products a time step as ten launches do (an estimate): 16 documents of the R8 size.
  bool takes_wide(const gpu::Device& device, int64_t batch) const {
    constexpr int64_t kMostProducts = 500'000;
    if (chosen_steps == Steps::cluster || !is_wide(device, H_, batch)) return false;
    return chosen_steps == Steps::wide || kGates * H_ * (E_ + H_) * batch > kMostProducts;
  }

  // All but what differs from launch to launch.
  TrainParams params() {
    TrainParams p = {};
    p.E = int32_t(E_), p.H = int32_t(H_);
    p.read_last_word = options_.read_last_word, p.train_head = options_.train_head;
    p.rows_by_four = E_ % 4 == 0;
    for (const auto* list : {&tensors_.weights, &tensors_.scores, &tensors_.exp_avg, &tensors_.exp_avg_sq}) {
      p.rows_by_four &= reinterpret_cast<uintptr_t>((*list)[kEmbedding].const_data_ptr()) % 16 == 0;
    }
    p.embedding = tensors_.weights[kEmbedding].const_data_ptr<float>();
    p.word = word_.get<int32_t>(0, device_);
    p.weight_ih = scored(kWeightIh), p.weight_hh = scored(kWeightHh);
    p.bias_ih = scored(kBiasIh), p.bias_hh = scored(kBiasHh);
    p.linear = scored(kLinear), p.linear_bias = scored(kLinearBias);
    p.head_step = head_step_there_;
    p.bad = bad_.get<int32_t>(kBadFlags + kReasons, device_);
    p.reasons = p.bad + kBadFlags;
    return p;
  }

  // Memory for several arrays, each of which begins at a multiple of 16 bytes.
  static int64_t padded(int64_t count) { return (count + 3) / 4 * 4; }
  template <size_t N>
  static int64_t size_of(const int64_t (&sizes)[N]) {
    int64_t size = 0;
    for (const int64_t s : sizes) size += padded(s);
    return size;
  }
  template <size_t N>
  static void share(float* at, float** const (&pointers)[N], const int64_t (&sizes)[N]) {
    for (size_t i = 0; i < N; ++i) {
      *pointers[i] = at;
      at += padded(sizes[i]);
    }
  }

  void take_recurrence(TrainParams& p) {
    const int64_t T = p.T, batch = p.batch;
    const int64_t U = plan_.most_words, G = kGates * H_, places = T * batch;
    float** const pointers[] = {&p.x,    &p.w_ih, &p.w_hh, &p.gates,   &p.cells,   &p.output,
                                &p.h_n,  &p.c_n,  &p.d_h_n, &p.d_words, &p.d_logits};
    const int64_t sizes[] = {U * E_,     2 * G * E_,  G * H_,     places * G, places * H_, (places + batch) * H_,
                             batch * H_, batch * H_, batch * H_, U * G,      batch * C_};
    share(scratch_.get<float>(size_of(sizes), device_), pointers, sizes);
    const Rows<float> gates = {p.gates, batch * G, G}, cells = {p.cells, batch * H_, H_};
    const MaskedNumbers w_hh = {p.w_hh};
    p.forward.hidden = p.backward.hidden = H_;
    p.forward.weight_hh = p.backward.weight_hh = w_hh;
    p.forward.bias_ih = {p.bias_ih.weight, p.bias_ih.state.score};
    p.forward.bias_hh = {p.bias_hh.weight, p.bias_hh.state.score};
    p.forward.gates = p.backward.d_gates = gates;
    p.forward.cells = cells;
    p.forward.output = {p.output + batch * H_, batch * H_, H_};
    p.forward.h_n = p.h_n, p.forward.c_n = p.c_n;
    p.backward.gates = {p.gates, batch * G, G};
    p.backward.cells = {p.cells, batch * H_, H_};
    p.backward.grad_h_n = p.d_h_n;
  }

  // What steps of the whole GPU need beside that.
  WideScratch wide_scratch() {
    const int64_t G = kGates * H_, words = plan_.most_words;
    const int64_t of_places = (plan_.most_places + kWidePlaces - 1) / kWidePlaces, of_words = (words + kWideWords - 1) / kWideWords;
    WideScratch w = {};
    float** const pointers[] = {&w.projected, &w.of_pieces, &w.of_w_hh, &w.of_w_ih};
    const int64_t sizes[] = {words * G, plan_.most_pieces * G, of_places * G * (H_ + 1), of_words * G * E_};
    share(wide_.get<float>(size_of(sizes), device_), pointers, sizes);
    w.flags = wide_flags_.get<int32_t>(kWideFlags, device_);
    return w;
  }

  // What GateRowSteps needs.
  void take_gate_rows(TrainParams& p, const GateRowLayout& layout) {
    const int64_t batch = p.batch;
    GateRowScratch& to = p.rows_of_gates;
    p.layout = layout;
    const int64_t G = kGates * H_, words = layout.words, places = layout.places;
    float** const pointers[] = {&to.x,        &to.w_ih,     &to.w_hh, &to.projected, &to.d_gates, &to.hidden,
                                &to.state_ih, &to.state_hh, &p.h_n,   &p.d_logits};
    const int64_t sizes[] = {2 * words * layout.pitch_e,
                             2 * G * layout.pitch_e,
                             int64_t{4} * kUnitPlaces * padded_units(int32_t(H_)),
                             words * G,
                             places * G,
                             places * layout.pitch_h,
                             int64_t{4} * layout.blocks * layout.numbers_ih(),
                             int64_t{4} * layout.blocks * layout.numbers_hh(int32_t(H_)),
                             batch * H_,
                             batch * C_};
    const int64_t size = size_of(sizes);
    float* const memory = gate_rows_.get<float>(size, device_);
    // What is behind the last column of a row is zero and stays so; arrays of other sizes begin elsewhere.
    if (std::memcmp(&layout, &last_layout_, sizeof(layout)) != 0 || memory != last_memory_) gate_rows_.clear();
    last_layout_ = layout, last_memory_ = memory;
    share(memory, pointers, sizes);
  }

  // Where the extension is compiled with SEAM_PROFILE, each launch tells on stderr how many clocks a step took by phase and
  // block. Each phase ends at the mark of its number in gate_row_steps.cuh.
#if defined(SEAM_PROFILE)
  void ask_for_profile(TrainParams& p) {
    p.profile = profile_.get<int64_t>(16 * kMarks, device_);
    profile_.clear();
  }
  void told_by_profile(const TrainParams& p) {
    if (!p.profile) return;
    const int blocks = p.layout.blocks;
    const int64_t steps = p.steps;
    constexpr const char* kNames[] = {"x arrives", "project", "meet",  "gates arrive", "forward", "head",
                                      "backward",  "",        "hand over", "meet",     "fetch",   "W_hh",
                                      "sums",      "W_ih",    "end",   "d x",          "words",   "meet"};
    const Tensor told = profile_.fetch<int64_t>(blocks * kMarks);
    wait_for(gpu::device_of(tensors_.weights[kEmbedding]));
    const auto* const clocks = static_cast<const int64_t*>(told.const_data_ptr());
    std::fprintf(stderr, "clocks a step over %lld steps, by phase and block\n", static_cast<long long>(steps));
    for (size_t phase = 0; phase < std::size(kNames); ++phase) {
      std::fprintf(stderr, "%-13s", kNames[phase]);
      for (int b = 0; b < blocks; ++b) {
        std::fprintf(stderr, " %6lld", static_cast<long long>(clocks[b * kMarks + phase] / steps));
      }
      std::fprintf(stderr, "\n");
    }
  }
  DeviceBuffer profile_;
#else
  void ask_for_profile(TrainParams&) {}
  void told_by_profile(const TrainParams&) {}
#endif

  // Of documents [from, to): what their losses are divided by.
  float total(const float* share, int64_t from, int64_t to) const {
    if (options_.target_weight == 1) return float(to - from);
    double sum = 0;
    for (int64_t i = from; i < to; ++i) sum += share[2 * i] * options_.target_weight + share[2 * i + 1];
    return float(sum);
  }

  // ---- Steps of the head alone in parts -------------------------------------------------------------------------------------

  void begin_head(const Tensor& features, const Tensor& shares, int64_t batch, int64_t begin, int64_t end) {
    check_features(features);
    check_shares(shares, features.size(0));
    check_range(begin, end, features.size(0), batch);
    batch = std::min(batch, std::max<int64_t>(end - begin, 1));
    const int64_t steps = (end - begin + batch - 1) / batch;
    head_ = {features, steps};
    if (steps == 0) return;
    check_whole();
    std::vector<AdamStep<float>> step(steps);
    for (int64_t i = 0; i < steps; ++i) step[i] = adam_step_constants<float>(kBeta1, kBeta2, lr_head_, head_steps_ + i + 1);
    const float* const share = shares.const_data_ptr<float>();
    TrainHeadParams& p = head_.p;
    p.head = head_params(tensors_.head_alone, batch);
    p.documents = int32_t(end - begin), p.batch = int32_t(batch);
    p.features = features.const_data_ptr<float>() + begin * C_;
    std::tie(p.shares, p.step) =
        documents_there_.put_all(device_, std::vector<float>(share + 2 * begin, share + 2 * end), step);
    p.bad = bad_.get<int32_t>(kBadFlags, device_);
    std::tie(p.outcome, p.losses) = room_to_tell(1, steps);
    failed_ = true;  // until it has gone well
  }

  void end_head() {
    if (head_.steps == 0) return;
    head_.told = fetch_told(1, head_.steps);
    failed_ = false;
  }

  std::tuple<std::vector<double>, SeamFailure> found_by_head() {
    const HeadRun run = std::exchange(head_, {});
    if (run.steps == 0) return {};
    const auto [outcomes, losses] = told_by(run.told, 1);
    const Outcome outcome = *outcomes;
    head_steps_ += outcome.steps;
    steps_.fetch_add(outcome.steps, std::memory_order_relaxed);
    failed_ |= outcome.what >= 0;
    return found(outcome, losses, outcome.steps);
  }

  static int64_t bytes_of_outcomes(size_t launches) { return (int64_t(launches * sizeof(Outcome)) + 15) / 16 * 16; }

  // Where so many launches of so many steps in all write it; its way to the host, by one copy; and where it is there.
  std::tuple<Outcome*, float*> room_to_tell(size_t launches, int64_t steps) {
    const int64_t losses_at = bytes_of_outcomes(launches);
    uint8_t* const to = told_.get<uint8_t>(losses_at + steps * int64_t(sizeof(float)), device_);
    return {reinterpret_cast<Outcome*>(to), reinterpret_cast<float*>(to + losses_at)};
  }
  Tensor fetch_told(size_t launches, int64_t steps) const {
    return told_.fetch<uint8_t>(bytes_of_outcomes(launches) + steps * int64_t(sizeof(float)));
  }
  static std::tuple<const Outcome*, const float*> told_by(const Tensor& told, size_t launches) {
    const auto* const from = static_cast<const uint8_t*>(told.const_data_ptr());
    return {reinterpret_cast<const Outcome*>(from), reinterpret_cast<const float*>(from + bytes_of_outcomes(launches))};
  }

  // Of several launches, the i-th of which had the steps from taken[i] on, the first that failed, or the last; and the steps
  // until then.
  static std::pair<Outcome, int64_t> first_that_failed(const Outcome* outcomes, const std::vector<int64_t>& taken) {
    size_t i = 0;
    while (i + 2 < taken.size() && outcomes[i].what < 0) ++i;
    return {outcomes[i], taken[i] + outcomes[i].steps};
  }

  static std::tuple<std::vector<double>, SeamFailure> found(const Outcome& outcome, const float* losses, int64_t steps) {
    SeamFailure failure;
    if (outcome.what >= 0) failure = {outcome.what, outcome.loss};
    return {{losses, losses + steps}, failure};
  }

  // ---- Rows ----------------------------------------------------------------------------------------------------------------

  void put_tables() {
    std::tie(step_there_, head_step_there_, beta2_power_there_) =
        tables_there_.put_all(device_, step_, head_step_, beta2_power_);
    tables_are_new_ = false;
  }

  // The state of rows that never occurred stands behind all rows, the same in each column.
  void take_fresh() {
    for (int i = 0; i < 3; ++i) {
      const Tensor& state = (i == 0 ? tensors_.scores : i == 1 ? tensors_.exp_avg : tensors_.exp_avg_sq)[kEmbedding];
      fresh_[i] = state.select(0, rows_).select(0, 0).item<float>();
    }
  }

  // It before each of the next steps, and after the last.
  const std::vector<float>& fresh_states(int64_t steps) {
    float score = fresh_[0], m = fresh_[1], v = fresh_[2];
    fresh_states_.assign({score, m, v});
    for (int64_t i = 0; i < steps; ++i) {
      adam_step<Exact<float>>(rule_, step_[now_ - first_ + i], rule_.penalty, score, m, v);
      fresh_states_.insert(fresh_states_.end(), {score, m, v});
    }
    return fresh_states_;
  }

  // Makes the rules for the gaps of a plan or a flush, so far as they are missing on the device.
  void need_gap(int64_t from, int64_t now) {
    while (from != kFresh && from < now) {
      const int64_t count = std::min(now - from, kLongestGap);
      if (!has_gap_[count] && gap_is_jumped(from, count)) {
        gaps_[count] = gap_rule<float>(count);
        has_gap_[count] = true;
        new_gaps_ = true;
      }
      from += count;
    }
  }
  void put_gaps() {
    if (new_gaps_) gaps_there_.put(gaps_, device_);
    new_gaps_ = false;
  }
  void need_gaps(int64_t now) {
    if (options_.catch_up != "quadrature") return;
    for (size_t s = 0; s + EpochPlan::kBehind < plan_.steps.size(); ++s) {
      const PlanStep& step = plan_.steps[s];
      for (int32_t i = 0; i < step.due; ++i) need_gap(plan_.numbers[step.due_at + kDueNumbers * i + 1], now + int64_t(s));
    }
    put_gaps();
  }

  void flush_rows() {
    if (failed_ || flushed_) return;
    failed_ = true;  // until it has gone well
    plan_.flush(now_, due_);
    due_.insert(due_.end(), {int32_t(rows_), kFresh, kNone});
    if (options_.catch_up == "quadrature") {
      for (size_t i = 1; i < due_.size(); i += kDueNumbers) need_gap(due_[i], now_);
      put_gaps();
    }
    FlushParams p = {rows_params(), now_, int64_t(due_.size()) / kDueNumbers, due_there_.put(due_, device_),
                     {fresh_[0], fresh_[1], fresh_[2]}};
    gpu::flush(gpu::device_of(tensors_.weights[kEmbedding]), p);
    failed_ = false, flushed_ = true;
  }

  int64_t rows_;
  at::TensorOptions device_;
  EpochPlan plan_;
  Run run_ = {};
  struct HeadRun {
    Tensor features;    // which the launch reads
    int64_t steps;
    TrainHeadParams p;  // no documents where there are no steps
    Tensor told;        // on its way to the host
  };
  HeadRun head_ = {};
  // What a look has been asked for.
  struct LookQueued {
    LookParams params;
    int64_t words, warps;
    Tensor told, logits;  // on their way to the host
  };
  LookQueued look_ = {};
  Present here_;
  GateRowLayout last_layout_ = {};
  const float* last_memory_ = nullptr;
  AdamRule<float> rule_;  // of the embedding's scores
  int64_t now_ = 0, first_ = 0, head_steps_ = 0;
  double lr_ = 0, lr_head_ = 0;
  bool failed_ = false, new_gaps_ = false;
  bool flushed_ = false;  // and no step taken since: each question asks for it, and a launch for nothing holds up the stream
  float fresh_[3];
  std::vector<AdamStep<float>> step_, head_step_;  // of this epoch, from step `first_` on
  std::vector<double> beta2_power_;
  bool tables_are_new_ = false;  // these three are not on the device yet
  std::vector<float> fresh_states_;
  std::vector<int32_t> due_;
  std::vector<GapRule<float>> gaps_;
  std::vector<bool> has_gap_;
  Mirrored looked_at_, asked_;  // by look, and by class_logits, which epochs of the head alone ask for other documents
  // On the device:
  DeviceBuffer word_, tables_there_, documents_there_, gaps_there_, due_there_, look_there_, plan_there_, scratch_, gate_rows_,
      wide_, wide_flags_, head_scratch_, bad_, told_;
  AdamStep<float>*step_there_, *head_step_there_;  // among the tables
  double* beta2_power_there_;
};

}  // namespace

void choose_steps(const std::string& steps) {
  TORCH_CHECK_VALUE(steps == "automatic" || steps == "cluster" || steps == "wide",
                    "steps must be 'automatic', 'cluster' or 'wide', but is '", steps, "'");
  chosen_steps = steps == "cluster" ? Steps::cluster : steps == "wide" ? Steps::wide : Steps::automatic;
}

int64_t modules_at_once(const Tensor& like, int64_t hidden, int64_t batch) {
  const c10::DeviceGuard guard(like.device());
  return modules_at_once(gpu::device_of(like), hidden, batch);
}

std::shared_ptr<SeamTrainer> make_trainer(SeamTrainerTensors t, const SeamTrainerOptions& options) {
  check_trainer(t, options, {t.weights.empty() ? c10::kCPU : t.weights[0].device().type(), false});
  const int64_t H = t.weights[kWeightHh].size(1), C = t.weights[kLinear].size(0);
  TORCH_CHECK_VALUE(C <= kMostClasses, "the engine on a GPU takes bases of up to ", int64_t(kMostClasses),
                    " classes, but this one has ", C);
  TORCH_CHECK_VALUE(modules_at_once(t.weights[kEmbedding], H, 1) > 0, "the engine on this GPU takes bases of up to ",
                    kMostHiddenUnits, " hidden units (64 where blocks form no clusters), but this one has ", H);
  // A look counts them by 32 in 32 bits.
  TORCH_CHECK_VALUE(t.scores[kEmbedding].numel() < (int64_t{1} << 31) - 32, "the engine on a GPU takes up to 2^31 scores of the "
                    "embedding, but this base and corpus have ", t.scores[kEmbedding].numel());
  const c10::DeviceGuard guard(t.weights[kEmbedding].device());
  return std::make_shared<Trainer>(std::move(t), options);
}

}  // namespace seam::gpu
