# Compiler settings of every native target. Rule: targets get them by linking heddle_flags, never by a global flag variable.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11)
  message(FATAL_ERROR "heddle: C++20 needs g++ 11 or newer, got ${CMAKE_CXX_COMPILER_VERSION} (${CMAKE_CXX_COMPILER})")
endif()

add_library(heddle_flags INTERFACE)
target_compile_options(heddle_flags INTERFACE -Wall -Wextra $<$<CONFIG:Release>:-O3>)
if(HEDDLE_WERROR)
  target_compile_options(heddle_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)   # nvcc: see heddle_cuda_target
endif()
if(HEDDLE_SANITIZE)
  set(_sanitize -fsanitize=${HEDDLE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1)
  target_compile_options(heddle_flags INTERFACE -Wno-maybe-uninitialized)  # g++ 12 sees ghosts in std::variant once it is instrumented
  target_compile_options(heddle_flags INTERFACE ${_sanitize})
  target_link_options(heddle_flags INTERFACE ${_sanitize})
endif()
