# What a browser loads, in one folder that any server of files can offer: the engine as swinv2.wasm, and cpp/web.
# Programs and tests become programs of Node.js, over the files of this system.

get_property(programs DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
foreach(program ${programs})
  get_target_property(type ${program} TYPE)
  if(type STREQUAL "EXECUTABLE")
    target_link_options(${program} PRIVATE -sNODERAWFS -sEXIT_RUNTIME)
  endif()
endforeach()

if(SWINV2_TESTS)
  set_tests_properties(threads model PROPERTIES DISABLED TRUE)  # they start threads, of which this build has one
endif()

set(folder ${CMAKE_CURRENT_BINARY_DIR}/web)
set(functions malloc free swinv2_open_bytes swinv2_close swinv2_describe swinv2_record
  swinv2_prepare_pixels swinv2_run swinv2_rank swinv2_last_error)
list(TRANSFORM functions PREPEND _)
list(JOIN functions , functions)

add_executable(swinv2_web $<TARGET_OBJECTS:swinv2_objects>)
set_target_properties(swinv2_web PROPERTIES OUTPUT_NAME swinv2 SUFFIX .wasm RUNTIME_OUTPUT_DIRECTORY ${folder})
target_link_options(swinv2_web PRIVATE
  -sSTANDALONE_WASM --no-entry -sEXPORTED_FUNCTIONS=${functions})
file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/web/*)
foreach(shared page.css parts.js)  # pages of ours look alike
  list(APPEND sources ${CMAKE_CURRENT_SOURCE_DIR}/../src/swinv2/serve/page/${shared})
endforeach()
foreach(source ${sources})
  get_filename_component(name ${source} NAME)
  configure_file(${source} ${folder}/${name} COPYONLY)  # again whenever it changes
endforeach()
