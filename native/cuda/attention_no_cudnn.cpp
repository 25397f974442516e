// Stands for attention_cudnn.cpp where the headers of cuDNN and of its frontend were not there to build it.
#include "cuda/attention_library.h"

namespace heddle::cuda {

LibraryInfo describe_cudnn() { return {"cuDNN", "", "", "this build has no code for it: " HEDDLE_CUDNN_SUMMARY}; }

std::unique_ptr<PromptLibrary> create_cudnn(const Device&, const PromptLimits&) { return nullptr; }

}  // namespace heddle::cuda
