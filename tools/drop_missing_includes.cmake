# Pass to CMake as -DCMAKE_PROJECT_INCLUDE=<this file> when building against ROS 2 from pip wheels.
#
# The imported targets of the wheels name the Python and NumPy include directories of the machine that built them, and
# CMake stops at an imported target whose include directory does not exist.  Once the project has been read, directories
# that do not exist here are removed from all imported targets; where every directory exists, nothing changes.
cmake_minimum_required(VERSION 3.19)

function(_drop_missing_includes)
  get_directory_property(_targets IMPORTED_TARGETS)
  foreach(_target IN LISTS _targets)
    get_target_property(_includes ${_target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT _includes)
      continue()
    endif()
    set(_present "")
    foreach(_include IN LISTS _includes)
      if(_include MATCHES "\\$<" OR EXISTS "${_include}")
        list(APPEND _present "${_include}")
      endif()
    endforeach()
    set_property(TARGET ${_target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${_present}")
  endforeach()
endfunction()

cmake_language(DEFER CALL _drop_missing_includes)
