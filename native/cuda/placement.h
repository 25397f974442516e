// Which GPU each rank takes and how the ranks talk: pure decisions, from what was asked and what the machine offers.
#pragma once
#include <string>
#include <vector>

#include "core/backend_abi.h"

namespace heddle::cuda {

// The first GPUs, one each, unless the options name others. Throws invalid_argument, unavailable.
std::vector<int> place_ranks(const RankOptions& options, int device_count);

bool share_gpus(const std::vector<int>& devices);     // two ranks on one GPU

struct Machine {
  bool peers = true;                                  // the GPUs reach each other's memory
  std::string why_no_peers;
  bool nccl = true;
  std::string why_no_nccl;
};

struct CommunicatorPlan {
  bool local = false;                                 // own kernels, over peers' memory
  bool nccl = false;                                  // with local: for large messages
  std::string text() const;                           // "local, nccl for large messages"
};

// Throws invalid_argument for NCCL with ranks that share a GPU, unavailable with the reason.
CommunicatorPlan choose_communicator(CommunicatorChoice wanted, const std::vector<int>& devices, const Machine& machine);

}  // namespace heddle::cuda
