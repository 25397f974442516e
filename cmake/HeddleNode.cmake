# What makes a module a Node addon. Under cmake-js CMAKE_JS_INC is set; under plain cmake the npm packages are asked.
# Rule: Node-API headers come from npm packages, so that nothing is downloaded.
if(NOT CMAKE_JS_INC)
  find_program(NODE_EXE NAMES node REQUIRED)
  execute_process(WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" OUTPUT_VARIABLE CMAKE_JS_INC RESULT_VARIABLE _rc
    COMMAND "${NODE_EXE}" -p "[require('node-api-headers').include_dir, require('node-addon-api').include_dir.replace(/\"/g,'')].join(';')"
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT _rc EQUAL 0)
    message(FATAL_ERROR "heddle: node-api-headers or node-addon-api not found: run npm install first")
  endif()
endif()

function(heddle_node_module target)
  set_target_properties(${target} PROPERTIES PREFIX "" SUFFIX ".node")
  target_include_directories(${target} SYSTEM PRIVATE ${CMAKE_JS_INC})
  target_link_libraries(${target} PRIVATE ${CMAKE_JS_LIB})
  target_compile_definitions(${target} PRIVATE NAPI_VERSION=8 HEDDLE_VERSION="${HEDDLE_VERSION}")
  # A worker's end unloads its addons; the code of a rank that hangs and was left behind must stay.
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    target_link_options(${target} PRIVATE -Wl,-z,nodelete)
  endif()
  if(APPLE)   # the symbols of Node-API come from the process that loads the module
    target_link_options(${target} PRIVATE -undefined dynamic_lookup)
  endif()
endfunction()
