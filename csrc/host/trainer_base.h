// What the engine's trainers share, on every device: their tensors, and whether what they are asked for can be done.
#pragma once

#include <mutex>
#include <utility>

#include "common/score_state.h"
#include "seam_trainer.h"

namespace seam {

enum Weight { kEmbedding, kWeightIh, kWeightHh, kBiasIh, kBiasHh, kLinear, kLinearBias, kWeights };

constexpr int64_t kMostSteps = int64_t{1} << 28;  // of an epoch, whose constants are tabulated
constexpr int64_t kMostStepsInAll = int64_t{1} << 31;

struct TrainerKind {
  c10::DeviceType device;
  bool takes_double;
};

// Raises what is wrong with the weights of a classifier of one layer in one direction; returns their shapes.
std::vector<std::vector<int64_t>> check_classifier(const std::vector<Tensor>& weights, const TrainerKind& kind);

// Raises what is wrong with a trainer's tensors or options.
void check_trainer(const SeamTrainerTensors& t, const SeamTrainerOptions& options, const TrainerKind& kind);

template <typename T>
ScoreState<T> score_state(const Tensor& score, const Tensor& exp_avg, const Tensor& exp_avg_sq) {
  return {score.mutable_data_ptr<T>(), exp_avg.mutable_data_ptr<T>(), exp_avg_sq.mutable_data_ptr<T>()};
}

class TrainerBase : public SeamTrainer {
 public:
  TrainerBase(SeamTrainerTensors tensors, const SeamTrainerOptions& options);

  static void check_range(int64_t begin, int64_t end, int64_t N, int64_t batch);
  // t: (N, T) of the type, on the CPU; end: kAll for all of it.
  static constexpr int64_t kAll = -1;
  static void check_documents(const Tensor& t, at::ScalarType type, const char* name, const Tensor& lengths,
                              int64_t begin, int64_t end, int64_t batch);
  static void check_words(const Tensor& ids, int64_t V);  // 0 to V - 1

  // To a look that has the head: class logits on the CPU, and the outputs that follow from them.
  static void add_logits(SeamLook& look, const Tensor& logits);

 protected:
  // One call at a time, on memory that is still where it was.
  class Use {
   public:
    explicit Use(TrainerBase& trainer);

   private:
    std::unique_lock<std::mutex> lock_;
  };

  void check_epoch(double lr_mask, double lr_head, int64_t now, int64_t steps) const;
  void check_steps_left(int64_t wanted, int64_t left) const;
  void check_adopted(int64_t steps, int64_t head_steps) const;
  void check_slots(const Tensor& slots, int64_t begin, int64_t end, int64_t most) const;
  void check_looked_at(const Tensor& ids, const Tensor& slots, const Tensor& lengths, int64_t rows) const;
  void check_features(const Tensor& features) const;           // (N, C), with the trainer's tensors
  void check_shares(const Tensor& shares, int64_t N) const;    // (N, 2), on the CPU

  SeamTrainerTensors tensors_;
  SeamTrainerOptions options_;
  int64_t E_, H_, C_;

 private:
  template <class Body>
  void for_each_tensor(Body&& body) const {
    for (const auto* list : {&tensors_.weights, &tensors_.scores, &tensors_.exp_avg, &tensors_.exp_avg_sq,
                             &tensors_.head, &tensors_.head_together, &tensors_.head_alone}) {
      for (const Tensor& t : *list) body(t);
    }
  }

  std::vector<std::pair<const void*, int64_t>> memory_;  // of each tensor: where it is, and how large
  std::mutex in_use_;
};

}  // namespace seam
