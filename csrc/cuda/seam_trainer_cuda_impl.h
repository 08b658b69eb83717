// The training engine's class for GPUs, which seam_trainer_cuda.h makes. Its parts:
//
//   seam_trainer_cuda.cpp           construction, the calls of SeamTrainer, and rows that are updated lazily
//   seam_trainer_cuda_stages.cpp    an epoch in stages: plans of some hundred steps each, their launches, their results
//   seam_trainer_cuda_evaluate.cpp  keep bits, head and class logits between two epochs
//   seam_trainer_cuda_params.cpp    the parameters and the scratch memory of the kernels
//
// Everything goes through the current stream; `train` and `train_head` synchronise, since they return what their
// launches found.
#pragma once

#include <atomic>
#include <tuple>
#include <utility>
#include <vector>

#include "device_memory.h"
#include "epoch_plan.h"
#include "host/trainer_base.h"
#include "queued_epochs.h"

namespace seam::gpu {

// Counts the trainers of a device: about as many modules are trained there at the same time.
class LiveTrainers {
 public:
  explicit LiveTrainers(int index) : count_(counts[index < 0 ? 0 : index < kDevices ? index : kDevices - 1]) {
    ++count_;
  }
  LiveTrainers(const LiveTrainers&) = delete;
  LiveTrainers& operator=(const LiveTrainers&) = delete;
  ~LiveTrainers() { --count_; }
  int64_t modules() const { return count_; }

 private:
  static constexpr int kDevices = 64;
  static inline std::atomic<int64_t> counts[kDevices] = {};
  std::atomic<int64_t>& count_;
};

class CudaTrainer final : public TrainerBase, public StagedTrainer {
 public:
  CudaTrainer(SeamTrainerTensors tensors, const SeamTrainerOptions& options);

  void begin_epoch(double lr_mask, double lr_head, int64_t steps) override;
  std::tuple<std::vector<double>, SeamFailure> train(const Tensor& score_rows, const Tensor& lengths,
                                                     const Tensor& target_probability, int64_t batch, int64_t begin,
                                                     int64_t end) override;
  std::tuple<std::vector<double>, SeamFailure> train_head(const Tensor& features, const Tensor& target_probability,
                                                          int64_t batch, int64_t begin, int64_t end) override;
  void flush() override;
  void load_state(int64_t steps, int64_t head_steps) override;
  Tensor class_logits(const Tensor& ids, const Tensor& score_rows, const Tensor& lengths) override;
  Tensor base_logits(const Tensor& ids, const Tensor& lengths) override;
  SeamEvaluation evaluate(const OptionalTensor& ids, const OptionalTensor& score_rows,
                          const OptionalTensor& lengths) override;

  // ---- StagedTrainer ------------------------------------------------------------------------------------------------

  void begin_staged(const EpochRequest& e, const DrawnDocuments::Epoch& drawn) override;
  TrainHeadParams prepare_head() override { return head_.p; }
  size_t launches() const override { return run_.taken.size() - 1; }
  // Must follow that of the launch before.
  void plan_launch(size_t i) override { plan_launch(i, run_.wide ? EpochPlan::by_time : EpochPlan::by_document); }
  TrainParams prepare_launch(const gpu::Device& device, size_t i) override;
  void end_staged(const EpochRequest& e) override;
  SeamEpoch finish_staged(const EpochRequest& e) override;
  Tensor device_tensor() const override { return tensors_.weights[kEmbedding]; }

 private:
  // ---- seam_trainer_cuda.cpp ----------------------------------------------------------------------------------------

  // Raises where a step has failed since the state was last set: then scores and moments mean nothing.
  void check_whole() const;

  // Copies the tables of the epoch's Adam constants to the device.
  void put_tables();
  // Reads the state of untouched rows, which never occurred: the row behind all others, the same in each column.
  void read_untouched_state();
  // That state before each of the next steps, and after the last.
  const std::vector<float>& untouched_states(int64_t steps);

  // Makes the quadrature rules that a row needs which is current up to step `from`; copy_rules copies the new ones to
  // the device.
  void need_rule(int64_t from, int64_t now);
  void copy_rules();
  // For all stale rows of the plan, whose first step is `now`; copies them.
  void need_rules(int64_t now);

  // Applies what all rows have missed.
  void flush_rows();

  // ---- seam_trainer_cuda_stages.cpp ---------------------------------------------------------------------------------

  // The arguments of `train`, and its results on their way.
  struct Run {
    Tensor score_rows, lengths, target_probability;
    int64_t batch, begin, end;
    std::vector<int64_t> taken = {0};  // steps before each launch, and after the last, if none fails
    TrainParams p;                     // what all launches have in common
    bool wide;
    Tensor results;  // a copy on its way to the host
  };
  void begin_run(const Tensor& score_rows, const Tensor& lengths, const Tensor& target_probability, int64_t batch,
                 int64_t begin, int64_t end);
  void plan_launch(size_t i, EpochPlan::FlatOrder order);
  // Copies the plan to the device, and sets the parameters that depend on it.
  void put_plan(TrainParams& p);
  // After the last launch: starts the copy of the results. Until they are read all steps count as taken.
  void end_run();
  // After the synchronisation: losses and failure.
  std::tuple<std::vector<double>, SeamFailure> finish_run();

  // The same for `train_head`.
  struct HeadRun {
    Tensor features;  // which the launch reads
    int64_t steps;
    TrainHeadParams p;  // without documents where there are no steps
    Tensor results;     // a copy on its way to the host
  };
  void begin_head_run(const Tensor& features, const Tensor& target_probability, int64_t batch, int64_t begin,
                      int64_t end);
  void end_head_run();
  std::tuple<std::vector<double>, SeamFailure> finish_head_run();

  // Outcomes and losses of some launches with some steps in all: where kernels write them; their copy to the host; and
  // where they are in that copy.
  std::tuple<Outcome*, float*> results_on_device(size_t launches, int64_t steps);
  Tensor copy_results_to_host(size_t launches, int64_t steps) const;

  // Only with SEAM_PROFILE.
  void start_profile(TrainParams& p);
  void print_profile(const TrainParams& p);

  // ---- seam_trainer_cuda_evaluate.cpp -------------------------------------------------------------------------------

  // An evaluation whose kernels are queued.
  struct PendingEvaluation {
    KeepBitsParams params;
    int64_t words, warps;
    Tensor packed, logits;  // copies on their way to the host
  };
  // Queues the kernels and the copies to the host, of the class logits of documents, too, if they are given.
  void begin_evaluation(const OptionalTensor& ids, const OptionalTensor& score_rows, const OptionalTensor& lengths);
  // After the synchronisation. Copies out of pinned memory, which the next evaluation will use.
  SeamEvaluation finish_evaluation();
  // The class logits of documents (N, C), on the device.
  Tensor read(DeviceCopies& documents, const Tensor& ids, const Tensor& score_rows, const Tensor& lengths);

  // ---- seam_trainer_cuda_params.cpp ---------------------------------------------------------------------------------

  // Numbers of TrainParams::bad and reasons: twice the warps of the largest cluster, and its threads.
  static constexpr int64_t kBadFlags = 2 * 16 * 8, kReasons = 16 * 256;

  // A weight with its scores and their moments.
  Scored scored(int w) const;
  RowsParams rows_params();
  HeadParams head_params(const std::vector<Tensor>& adam, int64_t batch);
  // The parameters of `train` that all launches have in common.
  TrainParams params();
  // What the sum of the losses of documents [from, to) is divided by.
  float total(const float* target_probability, int64_t from, int64_t to) const;
  // Whether the whole GPU takes steps of so many documents, each in several launches; else a cluster takes many in one.
  bool takes_wide(const gpu::Device& device, int64_t batch) const;
  // Set the scratch of a launch: for SeamSteps, for steps of the whole GPU, for GateRowSteps.
  void take_recurrence(TrainParams& p);
  WideScratch wide_scratch();
  void take_gate_rows(TrainParams& p, const GateRowLayout& layout);

  int64_t rows_;
  at::TensorOptions device_;
  EpochPlan plan_;
  Run run_ = {};
  HeadRun head_ = {};
  PendingEvaluation pending_evaluation_ = {};
  LiveTrainers live_trainers_;
  GateRowLayout last_layout_ = {};
  const float* last_memory_ = nullptr;
  AdamRule<float> rule_;  // of the embedding's scores
  int64_t now_ = 0, first_ = 0, head_steps_ = 0;
  double lr_ = 0, lr_head_ = 0;
  bool failed_ = false, new_rules_ = false;
  bool flushed_ = false;  // no step was taken since the last flush, so that another one needs no launch
  float untouched_[3];
  std::vector<AdamStep<float>> step_, head_step_;  // of this epoch, from step `first_` on
  std::vector<double> beta2_power_;
  bool tables_are_new_ = false;  // the three tables above are not on the device yet
  std::vector<float> untouched_states_;
  std::vector<int32_t> stale_;
  std::vector<QuadratureRule<float>> rules_;
  std::vector<bool> has_rule_;
  DeviceCopies evaluation_documents_, logits_documents_;  // of evaluate and of class_logits, whose documents differ
#if defined(SEAM_PROFILE)
  DeviceBuffer profile_;
#endif
  // On the device:
  DeviceBuffer id_of_row_, tables_on_device_, documents_on_device_, rules_on_device_, stale_on_device_,
      keep_bits_on_device_, plan_on_device_, scratch_, gate_rows_, wide_, wide_flags_, head_scratch_, bad_, results_;
  AdamStep<float>*step_on_device_, *head_step_on_device_;  // among the tables
  double* beta2_power_on_device_;
};

}  // namespace seam::gpu
