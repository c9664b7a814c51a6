# Inside the Python package the library lies beside its modules, under one name: a wheel holds no links.

install(TARGETS swinv2 COMPONENT python LIBRARY DESTINATION swinv2 RUNTIME DESTINATION swinv2
        ARCHIVE DESTINATION swinv2 EXCLUDE_FROM_ALL)
