"""Start the segmentation node with a camera that is not there and a client that points at objects.

    ros2 launch robust_pvos_ros demo.launch.py                        # the street scene
    ros2 launch robust_pvos_ros demo.launch.py video:=FILE_OR_FOLDER bag:=FOLDER

Watch /robust_pvos/camera/overlay in rqt_image_view.  Everything ends with the camera's last picture.
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, GroupAction, IncludeLaunchDescription, Shutdown
from launch.conditions import IfCondition, UnlessCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare

RANGE, OLD_RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY'


def demo_process(executable, *arguments, **options):
    """A program of the demo, which has a command line of its own instead of ROS arguments."""
    command = [ExecutableInPackage(executable, 'robust_pvos_ros'), *arguments]
    environment = {} if OLD_RANGE in os.environ else {RANGE: LaunchConfiguration('discovery_range')}
    return ExecuteProcess(cmd=command, name=executable, additional_env=environment, output='screen', **options)


def is_given(name):
    """Whether a launch argument is not empty, as a condition's text and as a number to count with."""
    return ["('", LaunchConfiguration(name), "' != '')"]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(
            'video',
            default_value='',
            description='Video file or folder of pictures; empty: the rendered street scene with its own prompts.',
        ),
        DeclareLaunchArgument(
            'console', default_value='false', choices=['true', 'false'],
            description='Also start the web console: http://127.0.0.1:8100.',
        ),
        DeclareLaunchArgument(
            'bag', default_value='', description='Folder to be made for a bag of the run; empty: nothing is recorded.'
        ),
    ]
    share = FindPackageShare('robust_pvos_ros')
    # It also sets the DDS profile for every process that starts after it, and declares discovery_range.
    segmentation = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([share, 'launch', 'segmentation.launch.py'])),
        launch_arguments={'console': LaunchConfiguration('console')}.items(),
    )
    # The first picture waits for the node and the recorder, and for the client too if it looks at the pictures.
    street = GroupAction(
        [
            demo_process(
                'demo_camera', '--subscribers', PythonExpression(['1 + ', *is_given('bag')]), on_exit=Shutdown()
            ),
            demo_process('demo_client'),
        ],
        condition=UnlessCondition(PythonExpression(is_given('video'))),
    )
    film = GroupAction(
        [
            demo_process(
                'demo_camera', '--video', LaunchConfiguration('video'), '--hold-after', '5',
                '--subscribers', PythonExpression(['2 + ', *is_given('bag')]), on_exit=Shutdown(),
            ),
            demo_process('demo_client', '--auto'),
        ],
        condition=IfCondition(PythonExpression(is_given('video'))),
    )
    recorder = demo_process(
        'demo_recorder', LaunchConfiguration('bag'), condition=IfCondition(PythonExpression(is_given('bag')))
    )
    return LaunchDescription([*arguments, segmentation, recorder, street, film])
