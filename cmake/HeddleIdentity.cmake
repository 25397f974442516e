# HEDDLE_VERSION, and HEDDLE_BUILD_IDENTITY: what the addon and the CUDA backend must agree in, since they share the interfaces of
# native/core: version, a hash of those headers, compiler. Rule: a change of a header configures anew, so that both halves get it.
file(READ "${CMAKE_CURRENT_SOURCE_DIR}/package.json" _package)
string(JSON HEDDLE_VERSION GET "${_package}" version)

file(GLOB _headers CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/core/*.h")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${_headers} "${CMAKE_CURRENT_SOURCE_DIR}/package.json")
set(_hashes "")
foreach(_header ${_headers})
  file(SHA256 "${_header}" _hash)
  string(APPEND _hashes "${_hash}")
endforeach()
string(SHA256 _interfaces "${_hashes}")
string(SUBSTRING "${_interfaces}" 0 12 _interfaces)
string(REGEX MATCH "^[0-9]+" _major "${CMAKE_CXX_COMPILER_VERSION}")
set(HEDDLE_BUILD_IDENTITY "heddle ${HEDDLE_VERSION}, interfaces ${_interfaces}, ${CMAKE_CXX_COMPILER_ID} ${_major}")

set_property(SOURCE native/cuda_library.cpp native/cuda/entry.cpp APPEND PROPERTY
  COMPILE_DEFINITIONS "HEDDLE_BUILD_IDENTITY=\"${HEDDLE_BUILD_IDENTITY}\"")
set_property(SOURCE native/cuda_library.cpp APPEND PROPERTY COMPILE_DEFINITIONS "HEDDLE_CUDA_BUILD=\"${HEDDLE_CUDA_SUMMARY}\"")
