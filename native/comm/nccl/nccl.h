// The communicator of NCCL: one rank per GPU. Its functions come from a table, found at run time (cuda/dynlib.h).
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device_communicator.h"
#include "cuda/dynlib.h"

namespace heddle::comm {

// `host`: the ranks' communicators of host memory, for the exchange of the id, barriers and aborts (they may be shared with the local
// communicator that uses this one for large messages); `table` outlives them.
// Ranks must be on distinct GPUs: NCCL refuses several on one. `note` is told why registered memory is not used to the full; any rank.
// `reproducible`: all-reduce adds in the order of core/sum_tree.h, which costs the bytes of an all-gather; else in NCCL's.
using NcclNote = std::function<void(const std::string&)>;
std::vector<std::unique_ptr<cuda::DeviceCommunicator>> create_nccl(const cuda::NcclTable& table, std::vector<std::shared_ptr<Communicator>> host,
                                                                   const NcclNote& note = {}, bool reproducible = false);

}  // namespace heddle::comm
