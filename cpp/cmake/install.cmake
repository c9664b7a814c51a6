# What those who embed the library find: header, library, tool, find_package(swinv2) and pkg-config.

include(CMakePackageConfigHelpers)
set_target_properties(swinv2 PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 1)

install(TARGETS swinv2 EXPORT swinv2
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES include/swinv2.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(SWINV2_TOOLS)
  if(UNIX AND NOT APPLE)  # found from wherever the folders are put
    file(RELATIVE_PATH libraries "/${CMAKE_INSTALL_BINDIR}" "/${CMAKE_INSTALL_LIBDIR}")
    set_target_properties(swinv2-cli PROPERTIES INSTALL_RPATH "$ORIGIN/${libraries}")
  endif()
  install(TARGETS swinv2-cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

set(folder ${CMAKE_INSTALL_LIBDIR}/cmake/swinv2)
install(EXPORT swinv2 NAMESPACE swinv2:: FILE swinv2Targets.cmake DESTINATION ${folder})
configure_package_config_file(cmake/swinv2Config.cmake.in swinv2Config.cmake INSTALL_DESTINATION ${folder})
write_basic_package_version_file(swinv2ConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/swinv2Config.cmake ${CMAKE_CURRENT_BINARY_DIR}/swinv2ConfigVersion.cmake
        DESTINATION ${folder})

file(RELATIVE_PATH up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REPLACE ";" " " packages "${SWINV2_DECODER_PACKAGES}")
set(definitions "")
if(NOT BUILD_SHARED_LIBS)
  set(definitions -DSWINV2_STATIC)
endif()
configure_file(cmake/swinv2.pc.in swinv2.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/swinv2.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
