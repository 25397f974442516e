# Highway is used by its headers alone: nothing of libhwy is linked, so the binaries need no package at run time.
find_path(HEDDLE_HIGHWAY_INCLUDE hwy/highway.h)
if(NOT HEDDLE_HIGHWAY_INCLUDE)
  message(FATAL_ERROR "heddle: the Highway headers (hwy/highway.h) were not found. Debian, Ubuntu: apt-get install libhwy-dev")
endif()
add_library(heddle_highway INTERFACE)
target_include_directories(heddle_highway SYSTEM INTERFACE "${HEDDLE_HIGHWAY_INCLUDE}")
