{
  # CMakeLists.txt is the only list of sources: node-gyp only runs the script, which fills build/Release.
  "targets": [{
    "target_name": "heddle",
    "type": "none",
    "actions": [{
      "action_name": "cmake_js_build",
      "inputs": ["CMakeLists.txt"],
      "outputs": ["<(PRODUCT_DIR)/.always"],
      "action": ["node", "scripts/build-native.js", "--dest", "<(PRODUCT_DIR)"]
    }]
  }]
}
